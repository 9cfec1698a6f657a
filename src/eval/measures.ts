/** The results of evaluations, and how two are compared. Needs no libtorch, so that tables can be made from files. */
import { meanAndDeviation } from "../base/statistics.js";

/** All measures, in the order of the tables. */
export const measures = ["reward", "trueAlignment", "diversity"] as const;

/** The name of a measure. */
export type Measure = (typeof measures)[number];

/** A mean over prompts and its standard error. */
export interface Estimate {
  readonly mean: number;
  readonly error: number;
}

/** The measures of one prompt: means over its images; null for a measure that was not taken. */
export interface PromptMeasures extends Readonly<Record<Measure, number | null>> {
  readonly prompt: string;
  /** Each reward by its label, unweighted. */
  readonly rewards?: Readonly<Record<string, number>>;
}

/** The results of one prompt list. */
export interface EvaluationRow extends Readonly<Record<Measure, Estimate | null>> {
  readonly prompts: "training" | "held-out";
  readonly images: number;
  /** Each reward by its label, unweighted. */
  readonly rewards?: Readonly<Record<string, Estimate>>;
  readonly perPrompt: readonly PromptMeasures[];
}

/** The results of an evaluation, one row per prompt list. */
export interface Evaluation {
  readonly rows: readonly EvaluationRow[];
}

/** Mean and standard error of the mean over prompts; null if there are no values. */
export function estimate(values: readonly (number | null)[]): Estimate | null {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return null;
  const { mean, deviation } = meanAndDeviation(known);
  return { mean, error: deviation / Math.sqrt(known.length) };
}

/** Picks a number of each prompt: a measure, or a reward by its label. */
export type Quantity = (measures: PromptMeasures) => number | null;

/** Picks a measure of each prompt, for `compare`. */
export const measureOf =
  (measure: Measure): Quantity =>
  (prompt) =>
    prompt[measure];

/** Picks a single reward of each prompt by its label, for `compare`. */
export const rewardOf =
  (label: string): Quantity =>
  ({ rewards }) =>
    rewards?.[label] ?? null;

/** After minus before, prompt by prompt; null where either was not measured or the prompts differ. */
export function compare(before: EvaluationRow, after: EvaluationRow, quantity: Quantity): Estimate | null {
  const same =
    before.perPrompt.length === after.perPrompt.length &&
    before.perPrompt.every(({ prompt }, i) => prompt === after.perPrompt[i]!.prompt);
  if (!same) return null;
  return estimate(
    after.perPrompt.map((prompt, i) => {
      const [b, a] = [quantity(before.perPrompt[i]!), quantity(prompt)];
      return a === null || b === null ? null : a - b;
    }),
  );
}
