/** A second set of values for the weights in training: those that sampled a stage, or their average over updates. */
import { foreachAdd_, foreachMul_, keep, noGrad, tidy, type Tensor } from "../../torch/index.js";

/** Values that parameters can take for a while, see the top of this file. Owns its memory: call `dispose`. */
export class WeightCopy {
  readonly #parameters: ReadonlyMap<string, Tensor>;
  readonly #values: ReadonlyMap<string, Tensor>;

  /** Copies the current values. */
  constructor(parameters: ReadonlyMap<string, Tensor>) {
    this.#parameters = parameters;
    this.#values = tidy(() => new Map([...parameters].map(([name, p]) => [name, keep(p.detach().clone())] as const)));
  }

  /**
   * Runs `work` with these values, without recording gradients, then restores the parameters; what `work` changes of
   * them is kept here. Both happen in place, so no graph that still awaits its backward pass may hold the parameters.
   */
  use<T>(work: () => T): T {
    this.#exchange();
    try {
      return noGrad(work);
    } finally {
      this.#exchange();
    }
  }

  /** Like `use`, for work that takes several turns of the event loop. It may not train. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#exchange();
    try {
      return await work();
    } finally {
      this.#exchange();
    }
  }

  /** values <- decay values + (1 - decay) parameters. */
  follow(decay: number): void {
    tidy(() =>
      noGrad(() => {
        const values = [...this.#values.values()];
        foreachMul_(values, decay);
        foreachAdd_(values, [...this.#parameters.values()], { alpha: 1 - decay });
      }),
    );
  }

  /** The Euclidean distance of all values from the parameters. */
  distance(): number {
    const squares = [...this.#parameters].map(([name, parameter]) =>
      tidy(() => noGrad(() => parameter.sub(this.#values.get(name)!).square().sum().item())),
    );
    return Math.sqrt(squares.reduce((sum, square) => sum + square, 0));
  }

  dispose(): void {
    for (const value of this.#values.values()) value.dispose();
  }

  #exchange(): void {
    noGrad(() => {
      for (const [name, parameter] of this.#parameters) {
        tidy(() => {
          const value = this.#values.get(name)!;
          const other = parameter.clone();
          parameter.copy_(value);
          value.copy_(other);
        });
      }
    });
  }
}
