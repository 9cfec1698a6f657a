/**
 * Dynamic loss scaling: the loss is multiplied by a power of two before backward, so that gradients on their way through
 * a float16 network do not fall below its smallest number (6e-8); the parameters' gradients are divided by it again.
 * Source: "Mixed Precision Training" (Micikevicius et al. 2017, arXiv 1710.03740), with the schedule and the names of
 * PyTorch's GradScaler: an update whose gradient overflowed is left out and halves the scale, `growthInterval` updates
 * without one double it.
 */
import { TensorCheck } from "../safetensors/index.js";
import { foreachMul_, inference, tensor, type Tensor } from "../torch/index.js";

const SCALE_KEY = "grad_scaler.scale";
const TRACKER_KEY = "grad_scaler.growth_tracker";

export interface GradScalerOptions {
  /** false leaves losses and gradients alone, for the sake of one code path. */
  readonly enabled?: boolean;
  readonly initScale?: number;
  readonly growthFactor?: number;
  readonly backoffFactor?: number;
  readonly growthInterval?: number;
}

export class GradScaler {
  #scale: number;
  /** Updates since the scale last changed. */
  #tracker = 0;
  readonly #options: Required<Omit<GradScalerOptions, "initScale">>;

  constructor({
    enabled = true,
    initScale = 2 ** 16,
    growthFactor = 2,
    backoffFactor = 0.5,
    growthInterval = 2000,
  }: GradScalerOptions = {}) {
    this.#scale = enabled ? initScale : 1;
    this.#options = { enabled, growthFactor, backoffFactor, growthInterval };
  }

  /** What losses are multiplied by. */
  get scale(): number {
    return this.#scale;
  }

  /** Divides the gradients by the scale; those that are not finite stay so. */
  unscale_(parameters: Iterable<Tensor>): void {
    if (this.#scale === 1) return;
    // Handles of gradients that outlived this would keep their memory until a garbage collection.
    inference(() => {
      const grads = [...parameters].map(({ grad }) => grad).filter((grad) => grad !== null);
      if (grads.length > 0) foreachMul_(grads, 1 / this.#scale);
    });
  }

  /** @param overflowed whether the gradient of this update was not finite */
  update(overflowed: boolean): void {
    const { enabled, growthFactor, backoffFactor, growthInterval } = this.#options;
    if (!enabled) return;
    this.#tracker = overflowed ? 0 : this.#tracker + 1;
    if (overflowed) this.#scale *= backoffFactor;
    else if (this.#tracker === growthInterval) {
      this.#scale *= growthFactor;
      this.#tracker = 0;
    }
  }

  /** For saveSafetensors, in one file with an optimiser's; empty where it is not enabled. */
  state(): Map<string, Tensor> {
    if (!this.#options.enabled) return new Map();
    const number = (value: number): Tensor => tensor([value], { dtype: "float64" });
    return new Map([
      [SCALE_KEY, number(this.#scale)],
      [TRACKER_KEY, number(this.#tracker)],
    ]);
  }

  /**
   * Takes its own entries out of a saved state.
   *
   * @param source the file it is from, to name in errors
   * @returns the others
   * @throws SafetensorsError where they are missing or impossible
   */
  loadState(state: ReadonlyMap<string, Tensor>, source = "the optimiser's state"): Map<string, Tensor> {
    const rest = new Map(state);
    if (!this.#options.enabled) return rest;
    const check = new TensorCheck();
    const take = (key: string): number => {
      const value = rest.get(key);
      rest.delete(key);
      if (!check.fits(key, { dtype: "float64", shape: [1] }, value) || !check.finite(key, value)) return NaN;
      const number = value.item();
      if (number < 0) check.add(key, `Expected 0 or more but received ${number}`);
      return number;
    };
    const [scale, tracker] = [take(SCALE_KEY), take(TRACKER_KEY)];
    check.finish(source, "the state of an optimiser with loss scaling");
    [this.#scale, this.#tracker] = [scale, tracker];
    return rest;
  }
}
