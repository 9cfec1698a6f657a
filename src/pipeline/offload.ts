/**
 * Parts of a model that wait in main memory while others work, so that the device holds only what computes. As in
 * diffusers' `enable_model_cpu_offload`, a part comes when it is called, and leaves when another one is; here the denoiser
 * always stays, because a sampler or an update calls it again and again. The numbers are the same to the bit.
 */
import type { Device } from "../torch/index.js";

/** What can move, such as a Module. */
export interface Movable {
  to_(device: Device): unknown;
}

/** Where the parts of a model are, by the names of groups that work together. */
export class Offload<Name extends string> {
  readonly #groups: Readonly<Record<Name, readonly Movable[]>>;
  readonly #device: Device;
  /** Those that are on the device; all at first. */
  readonly #present: Set<Name>;

  /** @param device where the parts compute, and where they are now */
  constructor(groups: Readonly<Record<Name, readonly Movable[]>>, device: Device) {
    this.#groups = groups;
    this.#device = device;
    this.#present = new Set(Object.keys(groups) as Name[]);
  }

  /** Sends all groups away but one, and brings that one. @param name null for none */
  keepOnly(name: Name | null): void {
    for (const other of [...this.#present]) {
      if (other !== name) this.#move(other, "cpu");
    }
    if (name !== null && !this.#present.has(name)) this.#move(name, this.#device);
  }

  /** Whatever happens on the way, the group counts as present only if all of it is. */
  #move(name: Name, to: Device): void {
    this.#present.delete(name);
    for (const part of this.#groups[name]) part.to_(to);
    if (to === this.#device) this.#present.add(name);
  }
}
