/**
 * Generator: a stream of random numbers, seeded, saved and restored. Randomness is an explicit argument everywhere in
 * this library; the default generators exist for quick trials and are seeded by manualSeed.
 */
import type { Device } from "./dtypes.js";
import { inWords, TorchError } from "./error.js";
import { native, type Slot } from "./native.js";

/** What slotOf answers for a value that is no generator. */
const NOT_A_GENERATOR = -1;

function checkSeed(seed: unknown): number | bigint {
  if (typeof seed === "bigint" && seed >= 0n && seed < 1n << 64n) return seed;
  if (typeof seed === "number" && Number.isSafeInteger(seed) && seed >= 0) return seed;
  throw new TorchError(`Expected a whole number from 0 for the seed but received ${inWords(seed)}`, "seed");
}

const registry = new FinalizationRegistry<Slot>((slot) => native.releaseGenerator(slot));

export class Generator {
  #slot: Slot;
  readonly device: Device;

  constructor(seed: number | bigint = 0, device: Device = "cpu") {
    this.device = device;
    this.#slot = native.newGenerator(device, checkSeed(seed));
    registry.register(this, this.#slot);
  }

  /** The slot of a generator, NOT_A_GENERATOR for anything else. Not for use outside src/torch. */
  static slotOf(value: unknown): Slot {
    return typeof value === "object" && value !== null && #slot in value ? value.#slot : NOT_A_GENERATOR;
  }

  /** Starts the stream of this seed from its beginning. */
  seed(seed: number | bigint): this {
    native.seedGenerator(this.#slot, checkSeed(seed));
    return this;
  }

  /** Everything needed to continue from here, for setState. Opaque, and of this device kind. */
  getState(): Uint8Array {
    return new Uint8Array(native.generatorState(this.#slot));
  }

  /** @throws TorchError if the bytes are no state of such a generator */
  setState(state: Uint8Array): this {
    if (!(state instanceof Uint8Array)) {
      throw new TorchError(`Expected a Uint8Array for setState but received ${inWords(state)}`, "setState");
    }
    native.setGeneratorState(this.#slot, state);
    return this;
  }
}

/** Seeds the default generator of every device. */
export function manualSeed(seed: number | bigint): void {
  native.seedAll(checkSeed(seed));
}
