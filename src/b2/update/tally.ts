/** Averages the metrics of micro-batches into those of one optimiser step. */
import type { UpdateMetrics } from "../../runs/index.js";
import type { ObjectiveResult } from "../objectives/index.js";

export class Tally {
  readonly #sums = new Map<string, number>();
  #loss = 0;
  #pairs = 0;
  #ratios = { min: Infinity, max: -Infinity };

  /** Adds a micro-batch's loss and metrics. */
  add(pairs: number, loss: number, metrics: ObjectiveResult["metrics"]): void {
    this.#pairs += pairs;
    this.#loss += loss * pairs;
    for (const [name, values] of Object.entries(metrics)) {
      // An objective may return several values per pair.
      const sum = ((values as number[]).reduce((total, value) => total + value, 0) / values.length) * pairs;
      this.#sums.set(name, (this.#sums.get(name) ?? 0) + sum);
    }
    for (const ratio of metrics["ratio"] ?? []) {
      this.#ratios = { min: Math.min(this.#ratios.min, ratio), max: Math.max(this.#ratios.max, ratio) };
    }
  }

  /** The mean over pairs so far. */
  get loss(): number {
    return this.#loss / this.#pairs;
  }

  metrics(): Pick<UpdateMetrics, "loss" | "ratioMin" | "ratioMax" | "objective"> {
    const { min, max } = this.#ratios;
    const hasRatio = min <= max;
    const means = [...this.#sums].map(([name, sum]) => [name, sum / this.#pairs] as const);
    return {
      loss: this.loss,
      ratioMin: hasRatio ? min : null,
      ratioMax: hasRatio ? max : null,
      objective: Object.fromEntries(means),
    };
  }
}
