/** Averages the metrics of micro-batches into those of one optimiser step. */
import type { UpdateMetrics } from "../../runs/index.js";
import type { ObjectiveResult } from "../objectives/index.js";

/** What a tally has added up. */
export interface TallySums {
  readonly pairs: number;
  /** null, as JSON has it, where it is not finite; so are the others. */
  readonly loss: number | null;
  readonly sums: readonly (readonly [name: string, sum: number | null])[];
  /** Extremes of the ratio; null where there was none. */
  readonly ratios: readonly [min: number | null, max: number | null] | null;
}

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

  /** All sums, for another worker. */
  get sums(): TallySums {
    const { min, max } = this.#ratios;
    return {
      pairs: this.#pairs,
      loss: this.#loss,
      sums: [...this.#sums],
      ratios: min === Infinity && max === -Infinity ? null : [min, max],
    };
  }

  /** The tally of all workers' micro-batches, from the sums of each. */
  static of(all: readonly TallySums[]): Tally {
    const tally = new Tally();
    for (const { pairs, loss, sums, ratios } of all) {
      tally.#pairs += pairs;
      tally.#loss += loss ?? NaN;
      for (const [name, sum] of sums) tally.#sums.set(name, (tally.#sums.get(name) ?? 0) + (sum ?? NaN));
      if (ratios === null) continue;
      const [min, max] = [ratios[0] ?? NaN, ratios[1] ?? NaN];
      tally.#ratios = { min: Math.min(tally.#ratios.min, min), max: Math.max(tally.#ratios.max, max) };
    }
    return tally;
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
