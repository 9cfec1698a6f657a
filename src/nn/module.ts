/**
 * What layers and models have in common: a place in the checkpoint, and from it their parameters.
 */
import type { Tensor } from "../torch/index.js";
import type { Weights } from "./weights.js";

export abstract class Module {
  /** Where the parameters lie in the checkpoint; empty for a whole model. */
  readonly path: string;
  readonly #weights: Weights;

  constructor(weights: Weights) {
    this.path = weights.path;
    this.#weights = weights;
    weights.register(this);
  }

  /** The parameters of this module and those inside it, by full checkpoint key. */
  parameters(): Map<string, Tensor> {
    return new Map([...this.#weights.parameters].filter(([key]) => this.#holds(key)));
  }

  /** This module and those inside it, by path. */
  modules(): Map<string, Module> {
    return new Map([...this.#weights.modules].filter(([path]) => path === this.path || this.#holds(path)));
  }

  /** Numbers in all parameters. */
  parameterCount(): number {
    return [...this.parameters().values()].reduce((sum, { numel }) => sum + numel, 0);
  }

  /** Sets whether gradients are recorded for the parameters. Models come with this off. */
  requiresGrad_(on = true): this {
    for (const parameter of this.parameters().values()) parameter.requiresGrad_(on);
    return this;
  }

  /** Frees the parameters. The module is of no use afterwards. */
  dispose(): void {
    for (const parameter of this.parameters().values()) parameter.dispose();
  }

  #holds(key: string): boolean {
    return this.path === "" || key.startsWith(`${this.path}.`);
  }
}
