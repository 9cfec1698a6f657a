/** Optimiser steps in a row that were skipped because their loss or gradient was no number: told, counted, and bounded. */
import { InputError } from "../../base/errors.js";
import { warn, type Progress } from "../../base/progress.js";
import type { RunReader, UpdateMetrics } from "../../runs/index.js";
import { pairsInWords } from "./not-finite.js";

/**
 * How many steps in a row were skipped before a stage, by its run folder. Steps that only looked for float16's loss
 * scale neither count nor end the row.
 */
export function skippedInARow(run: Pick<RunReader, "has" | "updates">, stage: number): number {
  let count = 0;
  for (let before = stage - 1; before >= 0 && run.has(before, "updates"); before--) {
    for (const { skipped, notFinite } of run.updates(before).reverse()) {
      if (skipped === 0) return count;
      if (notFinite !== undefined) count++;
    }
  }
  return count;
}

/** Watches the steps of a stage. */
export class Skips {
  #count: number;
  readonly #stage: number;
  readonly #most: number;
  readonly #progress: Progress;

  constructor(before: number, stage: number, most: number, progress: Progress) {
    this.#count = before;
    this.#stage = stage;
    this.#most = most;
    this.#progress = progress;
  }

  /** Takes note of a step. @throws InputError if it is one too many that was skipped */
  add({ update, skipped, notFinite }: Pick<UpdateMetrics, "update" | "skipped" | "notFinite">): void {
    if (skipped === 0) this.#count = 0;
    if (notFinite === undefined) return;
    this.#count++;
    const words = pairsInWords(notFinite);
    if (this.#count > this.#most) {
      throw new InputError(
        `Expected at most ${this.#most} optimiser steps in a row that are skipped (train.mostSkipped) but received ${this.#count}, the last of them step ${update} of stage ${this.#stage}: ${words}. No weight has become NaN, and the finished stages are kept: a larger train.mostSkipped lets the run go on, but a new one with a lower train.learningRate or model.computeDtype=float32 is likelier to help`,
      );
    }
    const text = `optimiser step ${update} of stage ${this.#stage} is skipped: ${words}`;
    warn(this.#progress, { kind: "not-finite-steps", text, stages: this.#stage });
  }
}
