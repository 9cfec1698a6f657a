/** Models that rewards and measures share during a run, by folder, device and number format. */
import type { Device } from "../torch/index.js";
import { Clip } from "./clip.js";
import { USUAL_PLACEMENT } from "./placement.js";
import type { Placement, RewardContext, SharedModel } from "./reward.js";

interface Held {
  readonly model: SharedModel;
  readonly device: Device;
  /** Whether all that have asked for it with a placement let it leave its device. */
  offload: boolean;
}

export class RewardResources implements RewardContext {
  readonly device: Device;
  readonly runFolder: string | undefined;
  readonly #resolve: (path: string) => string;
  readonly #models = new Map<string, Held>();

  /**
   * @param resolve maps a path from a config to a local folder
   * @param runFolder of the run whose rewards these are, if there is one
   */
  constructor(device: Device, resolve: (path: string) => string = (path) => path, runFolder?: string) {
    this.device = device;
    this.#resolve = resolve;
    this.runFolder = runFolder;
  }

  resolve(path: string): string {
    return this.#resolve(path);
  }

  clip(path: string, placement?: Placement): Clip {
    return this.#held("clip", path, placement, (folder, how) => Clip.fromPretrained(folder, how));
  }

  shared<M extends SharedModel>(
    kind: string,
    path: string,
    placement: Placement,
    load: (folder: string, how: { readonly device: Device; readonly dtype: Placement["dtype"] }) => M,
  ): M {
    return this.#held(kind, path, placement, load);
  }

  /** With all models on their devices; those that are offloaded leave them afterwards. */
  async using<T>(work: () => Promise<T>): Promise<T> {
    for (const { model, device } of this.#offloaded) model.moveTo(device);
    try {
      return await work();
    } finally {
      this.rest();
    }
  }

  /** Moves what is offloaded to the CPU's memory. */
  rest(): void {
    for (const { model } of this.#offloaded) model.moveTo("cpu");
  }

  /** Frees all models. */
  dispose(): void {
    for (const { model } of this.#models.values()) model.dispose();
    this.#models.clear();
  }

  get #offloaded(): Held[] {
    return [...this.#models.values()].filter(({ offload, device }) => offload && device !== "cpu");
  }

  /** @param placement undefined: wherever another reward has it, and no word on offloading */
  #held<M extends SharedModel>(
    kind: string,
    path: string,
    placement: Placement | undefined,
    load: (folder: string, how: { readonly device: Device; readonly dtype: Placement["dtype"] }) => M,
  ): M {
    const { device: wanted, dtype, offload } = placement ?? USUAL_PLACEMENT;
    const folder = this.#resolve(path);
    const device = wanted ?? this.device;
    const key = JSON.stringify([kind, folder, device, dtype]);
    const known = this.#models.get(key);
    if (known !== undefined) {
      if (placement !== undefined) known.offload &&= offload;
      return known.model as M;
    }
    const model = load(folder, { device, dtype });
    this.#models.set(key, { model, device, offload });
    return model;
  }
}
