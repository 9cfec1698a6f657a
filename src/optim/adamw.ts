/**
 * AdamW: Adam with decoupled weight decay. Source: "Decoupled Weight Decay Regularization" (Loshchilov and Hutter),
 * with PyTorch's order of operations, so that runs can be compared. Every operation is one foreach call over all
 * parameters, because a LoRA has hundreds of small ones.
 */
import { TensorCheck } from "../safetensors/index.js";
import {
  foreachAdd_,
  foreachAddcdiv_,
  foreachAddcmul_,
  foreachDiv_,
  foreachMul_,
  foreachSqrt,
  inference,
  keep,
  tensor,
  zerosLike,
  type Tensor,
} from "../torch/index.js";

/** Hyperparameters, with PyTorch's names and defaults. */
export interface AdamWOptions {
  readonly lr?: number;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  readonly weightDecay?: number;
}

interface Moments {
  step: number;
  readonly expAvg: Tensor;
  readonly expAvgSq: Tensor;
}

/** The optimiser; owns its moments. */
export class AdamW {
  /** May be changed between steps. */
  lr: number;
  readonly #betas: readonly [number, number];
  readonly #eps: number;
  readonly #weightDecay: number;
  readonly #parameters: ReadonlyMap<string, Tensor>;
  readonly #moments = new Map<string, Moments>();

  /** @param parameters by name; the saved state uses the same names */
  constructor(
    parameters: ReadonlyMap<string, Tensor>,
    { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 1e-2 }: AdamWOptions = {},
  ) {
    this.#parameters = new Map(parameters);
    this.lr = lr;
    this.#betas = betas;
    this.#eps = eps;
    this.#weightDecay = weightDecay;
  }

  /** Updates all parameters that have a gradient. */
  step(): void {
    inference(() => {
      for (const [step, { parameters, grads, moments }] of this.#due()) {
        this.#update(step, parameters, grads, moments);
      }
    });
  }

  /** Sets all gradients to null. */
  zeroGrad(): void {
    for (const parameter of this.#parameters.values()) parameter.grad = null;
  }

  /**
   * The moments and step counts, for saveSafetensors: `<name>.exp_avg`, `.exp_avg_sq` and `.step`. The moments are not
   * copied.
   */
  state(): Map<string, Tensor> {
    const state = new Map<string, Tensor>();
    for (const [name, { step, expAvg, expAvgSq }] of this.#moments) {
      state.set(`${name}.exp_avg`, expAvg);
      state.set(`${name}.exp_avg_sq`, expAvgSq);
      state.set(`${name}.step`, tensor([step], { dtype: "int64" }));
    }
    return state;
  }

  /**
   * Loads a saved state. Parameters without an entry start with no moments.
   *
   * @param source its file, named in errors
   * @throws SafetensorsError naming every entry that is missing, of another shape, not finite, or of no parameter; the
   *   current moments are unchanged then
   */
  loadState(state: ReadonlyMap<string, Tensor>, source = "the optimiser's state"): void {
    const check = new TensorCheck();
    const rest = new Set(state.keys());
    const moments = new Map<string, Moments>();
    for (const [name, { dtype, shape }] of this.#parameters) {
      const keys = [`${name}.exp_avg`, `${name}.exp_avg_sq`, `${name}.step`] as const;
      const given = keys.filter((key) => state.has(key));
      if (given.length === 0) continue;
      for (const key of given) rest.delete(key);
      const [expAvg, expAvgSq, step] = keys.map((key) => state.get(key));
      const areMoments = [
        check.fits(keys[0], { dtype, shape }, expAvg) && check.finite(keys[0], expAvg),
        check.fits(keys[1], { dtype, shape }, expAvgSq) && check.finite(keys[1], expAvgSq),
      ];
      if (!check.fits(keys[2], { dtype: "int64", shape: [1] }, step)) continue;
      const count = step.item();
      if (count < 1) check.add(keys[2], `Expected a positive number but received ${count}`);
      if (areMoments.every(Boolean)) moments.set(name, { step: count, expAvg: expAvg!, expAvgSq: expAvgSq! });
    }
    for (const key of rest) check.unexpected(key);
    check.finish(source, "the state of an optimiser of these parameters");

    this.dispose();
    for (const [name, { step, expAvg, expAvgSq }] of moments) {
      // In the parameter's memory format, as if created here, so that the next steps are the same to the bit.
      const own = (moment: Tensor) => keep(inference(() => zerosLike(this.#parameters.get(name)!).copy_(moment)));
      this.#moments.set(name, { step, expAvg: own(expAvg), expAvgSq: own(expAvgSq) });
    }
  }

  /** Frees the moments. */
  dispose(): void {
    for (const { expAvg, expAvgSq } of this.#moments.values()) {
      expAvg.dispose();
      expAvgSq.dispose();
    }
    this.#moments.clear();
  }

  /** Parameters that have a gradient, grouped by their step number; in practice a single group. */
  #due(): Map<number, { parameters: Tensor[]; grads: Tensor[]; moments: Moments[] }> {
    const due = new Map<number, { parameters: Tensor[]; grads: Tensor[]; moments: Moments[] }>();
    for (const [name, parameter] of this.#parameters) {
      const { grad } = parameter;
      if (grad === null) continue;
      const moments = this.#momentsOf(name, parameter);
      moments.step += 1;
      const list = due.get(moments.step) ?? { parameters: [], grads: [], moments: [] };
      due.set(moments.step, list);
      list.parameters.push(parameter);
      list.grads.push(grad);
      list.moments.push(moments);
    }
    return due;
  }

  #momentsOf(name: string, parameter: Tensor): Moments {
    let moments = this.#moments.get(name);
    if (moments === undefined) {
      moments = { step: 0, expAvg: keep(zerosLike(parameter)), expAvgSq: keep(zerosLike(parameter)) };
      this.#moments.set(name, moments);
    }
    return moments;
  }

  #update(step: number, parameters: readonly Tensor[], grads: readonly Tensor[], moments: readonly Moments[]): void {
    const [beta1, beta2] = this.#betas;
    const expAvgs = moments.map(({ expAvg }) => expAvg);
    const expAvgSqs = moments.map(({ expAvgSq }) => expAvgSq);
    const correction1 = 1 - beta1 ** step;
    const correction2 = 1 - beta2 ** step;

    if (this.#weightDecay !== 0) foreachMul_(parameters, 1 - this.lr * this.#weightDecay);
    foreachMul_(expAvgs, beta1);
    foreachAdd_(expAvgs, grads, { alpha: 1 - beta1 });
    foreachMul_(expAvgSqs, beta2);
    foreachAddcmul_(expAvgSqs, grads, grads, { value: 1 - beta2 });
    const denominators = foreachSqrt(expAvgSqs);
    foreachDiv_(denominators, Math.sqrt(correction2));
    foreachAdd_(denominators, this.#eps);
    foreachAddcdiv_(parameters, expAvgs, denominators, { value: -this.lr / correction1 });
  }
}
