/** The results of evaluations, and how two are compared. Needs no libtorch, so that tables can be made from files. */
import { meanInterval, type Interval } from "../base/intervals.js";

/** All measures, in the order of the tables. */
export const measures = [
  "reward",
  "trueAlignment",
  "diversity",
  "diversityAmongRight",
  "pixelDiversityAmongRight",
] as const;

/** The name of a measure. */
export type Measure = (typeof measures)[number];

/** The measures of pairs of images that both show their prompt. */
const amongRight: readonly Measure[] = ["diversityAmongRight", "pixelDiversityAmongRight"];

/** Whether a measure is one of pairs of right images, whose number differs from prompt to prompt. */
export const isAmongRight = (measure: Measure): boolean => amongRight.includes(measure);

/**
 * A mean over prompts, and its 95% bootstrap interval over prompts, because images of one prompt are not independent; no
 * interval for a single prompt.
 */
export type Estimate = Interval;

/** The measures of one prompt: means over its images, or pairs of them; null for a measure that was not taken. */
export interface PromptMeasures extends Readonly<Record<Measure, number | null>> {
  readonly prompt: string;
  /** How many pairs of the prompt's images are both right; null without a judge. */
  readonly rightPairs: number | null;
  /** By slot of the prompt's scene, the share of images in which it is right. */
  readonly slots: Readonly<Record<string, number>>;
  /** Each reward by its label, unweighted. */
  readonly rewards?: Readonly<Record<string, number>>;
}

/** The results of one prompt list. */
export interface EvaluationRow extends Readonly<Record<Measure, Estimate | null>> {
  readonly prompts: "training" | "held-out";
  readonly images: number;
  /** The sum over prompts; null without a judge. */
  readonly rightPairs: number | null;
  /** By slot, over the prompts that have it. */
  readonly slots: Readonly<Record<string, Estimate>>;
  /** Each reward by its label, unweighted; judges too. */
  readonly rewards?: Readonly<Record<string, Estimate>>;
  /** The labels of those that are judges: no part of `reward`. */
  readonly judges?: readonly string[];
  readonly perPrompt: readonly PromptMeasures[];
}

/** The results of an evaluation, one row per prompt list. */
export interface Evaluation {
  readonly rows: readonly EvaluationRow[];
}

/** The results of one prompt list from those of its prompts. */
export function rowOf({
  prompts,
  images,
  judges = [],
  perPrompt,
}: Pick<EvaluationRow, "prompts" | "images" | "judges" | "perPrompt">): EvaluationRow {
  const over = (quantity: Quantity): Estimate | null => meanOf(perPrompt, quantity);
  const slots = [...new Set(perPrompt.flatMap((prompt) => Object.keys(prompt.slots)))];
  const labels = Object.keys(perPrompt[0]?.rewards ?? {});
  return {
    prompts,
    images,
    ...record(measures, (measure) => over(measureOf(measure))),
    rightPairs: perPrompt.reduce<number | null>(
      (sum, { rightPairs }) => (sum === null || rightPairs === null ? null : sum + rightPairs),
      0,
    ),
    slots: record(slots, (slot) => over(slotOf(slot))!),
    rewards: record(labels, (label) => over(rewardOf(label))!),
    ...(judges.length > 0 && { judges }),
    perPrompt,
  };
}

/**
 * Weighted mean over prompts and its interval. Values that are null or have no weight are left out; null if none is left.
 *
 * @param weights one per value; all 1 by default
 */
export function estimate(values: readonly (number | null)[], weights?: readonly number[]): Estimate | null {
  const known = values.flatMap((value, i) => {
    const weight = weights?.[i] ?? 1;
    return value === null || weight === 0 ? [] : [{ value, weight }];
  });
  return meanInterval(
    known.map(({ value }) => value),
    known.map(({ weight }) => weight),
  );
}

/** A number of each prompt: a measure, the alignment of a slot, or a reward by its label. */
export interface Quantity {
  /** null where it was not measured. */
  readonly of: (prompt: PromptMeasures) => number | null;
  /** What a prompt counts in a mean over prompts. */
  readonly weight: (prompt: PromptMeasures) => number;
}

const alike = (): number => 1;

/**
 * A measure. Prompts count alike, except among right images: there the mean is over all pairs, because a prompt with two
 * right images has one pair, and one with eight has 28.
 */
export const measureOf = (measure: Measure): Quantity => ({
  of: (prompt) => prompt[measure],
  weight: isAmongRight(measure) ? ({ rightPairs }) => rightPairs ?? 0 : alike,
});

/** The alignment of one slot. */
export const slotOf = (slot: string): Quantity => ({ of: ({ slots }) => slots[slot] ?? null, weight: alike });

/** A single reward by its label. */
export const rewardOf = (label: string): Quantity => ({ of: ({ rewards }) => rewards?.[label] ?? null, weight: alike });

/** The mean of a quantity over prompts. */
export const meanOf = (prompts: readonly PromptMeasures[], { of, weight }: Quantity): Estimate | null =>
  estimate(prompts.map(of), prompts.map(weight));

/**
 * After minus before, prompt by prompt; null where either was not measured or the prompts differ. A prompt counts as the
 * harmonic mean of its weights before and after, the inverse of the variance that the difference has.
 */
export function compare(before: EvaluationRow, after: EvaluationRow, { of, weight }: Quantity): Estimate | null {
  const same =
    before.perPrompt.length === after.perPrompt.length &&
    before.perPrompt.every(({ prompt }, i) => prompt === after.perPrompt[i]!.prompt);
  if (!same) return null;
  const pairs = after.perPrompt.map((prompt, i) => [before.perPrompt[i]!, prompt] as const);
  const changes = pairs.map(([before, after]) => {
    const [b, a] = [of(before), of(after)];
    return a === null || b === null ? null : a - b;
  });
  const weights = pairs.map(([before, after]) => {
    const [b, a] = [weight(before), weight(after)];
    return a + b === 0 ? 0 : (2 * a * b) / (a + b);
  });
  return estimate(changes, weights);
}

function record<K extends string, T>(keys: readonly K[], value: (key: K) => T): Record<K, T> {
  return Object.fromEntries(keys.map((key) => [key, value(key)])) as Record<K, T>;
}
