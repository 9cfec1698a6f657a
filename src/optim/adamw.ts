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

/** What holds the moments of a parameter, by its name in saved states. */
export interface MomentTensors {
  readonly exp_avg: Tensor;
  readonly exp_avg_sq: Tensor;
  /** Of 8-bit moments, see adamw-8bit.ts. */
  readonly exp_avg_absmax?: Tensor;
  readonly exp_avg_sq_absmax?: Tensor;
}

/** A parameter to be updated. */
export interface Due {
  readonly parameter: Tensor;
  readonly grad: Tensor;
  readonly moments: MomentTensors;
}

interface Moments {
  step: number;
  readonly tensors: MomentTensors;
}

/** What a parameter can have in a saved state. */
const KEYS = ["exp_avg", "exp_avg_sq", "exp_avg_absmax", "exp_avg_sq_absmax", "step"];

const named = (tensors: MomentTensors): [name: string, tensor: Tensor][] =>
  Object.entries(tensors) as [string, Tensor][];

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
      for (const [step, due] of this.#due()) this.update(step, due);
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
    for (const [name, { step, tensors }] of this.#moments) {
      for (const [key, moment] of named(tensors)) state.set(`${name}.${key}`, moment);
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
    const loaded = new Map<string, Moments>();
    try {
      for (const [name, parameter] of this.#parameters) {
        if (!KEYS.some((key) => state.has(`${name}.${key}`))) continue;
        const moments = { step: 0, tensors: this.#newMoments(parameter) };
        loaded.set(name, moments);
        const take = (key: string): Tensor | undefined => {
          rest.delete(`${name}.${key}`);
          return state.get(`${name}.${key}`);
        };
        for (const [key, own] of named(moments.tensors)) copyChecked(`${name}.${key}`, take(key), own, check);
        const [key, step] = [`${name}.step`, take("step")];
        if (!check.fits(key, { dtype: "int64", shape: [1] }, step)) continue;
        moments.step = step.item();
        if (moments.step < 1) check.add(key, `Expected a positive number but received ${moments.step}`);
      }
      for (const key of rest) check.unexpected(key);
      check.finish(source, "the state of an optimiser of these parameters");
    } catch (error) {
      disposeAll(loaded);
      throw error;
    }
    this.dispose();
    for (const [name, moments] of loaded) this.#moments.set(name, moments);
  }

  /** Frees the moments. */
  dispose(): void {
    disposeAll(this.#moments);
  }

  /** Moments before the first step, in the parameter's memory format. */
  protected zeroMoments(parameter: Tensor): MomentTensors {
    return { exp_avg: zerosLike(parameter), exp_avg_sq: zerosLike(parameter) };
  }

  /** @param step the number of this step, from 1, which all of `due` have in common */
  protected update(step: number, due: readonly Due[]): void {
    const [beta1, beta2] = this.#betas;
    const parameters = due.map(({ parameter }) => parameter);
    const grads = due.map(({ grad }) => grad);
    const expAvgs = due.map(({ moments }) => moments.exp_avg);
    const expAvgSqs = due.map(({ moments }) => moments.exp_avg_sq);
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

  /** Parameters that have a gradient, grouped by their step number; in practice a single group. */
  #due(): Map<number, Due[]> {
    const due = new Map<number, Due[]>();
    for (const [name, parameter] of this.#parameters) {
      const { grad } = parameter;
      if (grad === null) continue;
      const moments = this.#momentsOf(name, parameter);
      moments.step += 1;
      const list = due.get(moments.step) ?? [];
      due.set(moments.step, list);
      list.push({ parameter, grad, moments: moments.tensors });
    }
    return due;
  }

  #momentsOf(name: string, parameter: Tensor): Moments {
    let moments = this.#moments.get(name);
    if (moments === undefined) {
      moments = { step: 0, tensors: this.#newMoments(parameter) };
      this.#moments.set(name, moments);
    }
    return moments;
  }

  #newMoments(parameter: Tensor): MomentTensors {
    const tensors = inference(() => this.zeroMoments(parameter));
    for (const [, moment] of named(tensors)) keep(moment);
    return tensors;
  }
}

/** Copies a saved tensor into a moment, so that the next steps are the same to the bit, or notes why it cannot be. */
function copyChecked(key: string, saved: Tensor | undefined, own: Tensor, check: TensorCheck): void {
  const { dtype, shape } = own;
  if (!check.fits(key, { dtype, shape }, saved)) return;
  if (dtype === "uint8" || check.finite(key, saved)) inference(() => void own.copy_(saved));
}

function disposeAll(all: Map<string, Moments>): void {
  for (const { tensors } of all.values()) for (const [, moment] of named(tensors)) moment.dispose();
  all.clear();
}
