/**
 * Dynamic loss scaling: the loss is multiplied by a power of two before backward, so that gradients within a float16
 * network do not underflow (its smallest number is 6e-8); the parameters' gradients are then divided by it.
 * Source: "Mixed Precision Training" (Micikevicius et al. 2017, arXiv 1710.03740), with the schedule and the names of
 * PyTorch's GradScaler: an update whose gradient overflows is skipped and halves the scale; `growthInterval` updates in
 * a row without overflow double it.
 */
import { TensorCheck } from "../safetensors/index.js";
import { foreachMul_, inference, tensor, type Tensor } from "../torch/index.js";

const SCALE_KEY = "grad_scaler.scale";
const TRACKER_KEY = "grad_scaler.growth_tracker";

/** Options of the loss scaler, with PyTorch's names and defaults. */
export interface GradScalerOptions {
  /** false keeps the scale at 1, so that callers need only one code path. */
  readonly enabled?: boolean;
  readonly initScale?: number;
  readonly growthFactor?: number;
  readonly backoffFactor?: number;
  readonly growthInterval?: number;
}

/** The current loss scale and when to change it. */
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

  /** The factor for losses. */
  get scale(): number {
    return this.#scale;
  }

  /** Divides the gradients by the scale; infinities and NaNs remain. */
  unscale_(parameters: Iterable<Tensor>): void {
    if (this.#scale === 1) return;
    // Without this scope, the handles of gradients would keep their memory until a garbage collection.
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

  /** The state for saveSafetensors, to store beside an optimiser's; empty if disabled. */
  state(): Map<string, Tensor> {
    if (!this.#options.enabled) return new Map();
    const number = (value: number): Tensor => tensor([value], { dtype: "float64" });
    return new Map([
      [SCALE_KEY, number(this.#scale)],
      [TRACKER_KEY, number(this.#tracker)],
    ]);
  }

  /**
   * Loads its own entries of a saved state.
   *
   * @param source its file, named in errors
   * @returns the other entries
   * @throws SafetensorsError if its entries are missing or invalid
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
