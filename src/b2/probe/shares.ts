/**
 * How much of a measure's variance inside a prompt the last s steps of a trajectory still decide:
 *
 *     share(s) = E[Var(y | x at the split)] / E[Var(y | prompt)]
 *
 * By the law of total variance the numerator never falls as s grows, and share(T) = 1 once x_T itself is drawn anew. Both
 * are means, over the same roots, of sample variances of K values (divided by K - 1): branches of a root above,
 * independent images of its prompt below. Each is unbiased; their ratio is off by a term that falls as one over the
 * number of roots. Several roots of a prompt count like roots of several prompts.
 *
 * Training at an interval of T steps branches from a common x_T, so it decides a little less than share(T): what x_T
 * itself decides is not in it.
 */
import { bootstrapInterval } from "../../base/intervals.js";
import { meanAndDeviation } from "../../base/statistics.js";
import type { ProbedRoot } from "./branching.js";

/** What the last steps decide. */
export interface ShareEstimate {
  /** s */
  readonly steps: number;
  /** Mean variance of the branches of a root. */
  readonly variance: number;
  /** That variance as a share of the variance over independent images; null where that is 0 up to rounding. */
  readonly share: number | null;
  /** Ends of its 95% interval. */
  readonly low: number | null;
  readonly high: number | null;
  /** Share of the roots whose branches do not all have the same value, up to rounding. */
  readonly differing: number;
}

/** What a probe says about one measure. */
export interface MeasureShares {
  /** How many roots have this measure. */
  readonly roots: number;
  /** Mean over independent images. */
  readonly mean: number;
  /** One for each split, ascending; the last is that of independent images. */
  readonly shares: readonly ShareEstimate[];
}

/** A standard deviation below this share of the mean is float32's rounding, which depends on a row's place in a batch. */
const ROUNDING = 1e-6;

/** With fewer prompts, intervals are about the roots of these prompts alone. */
const FEWEST_PROMPTS = 8;

/** The shares of a measure, with bootstrap intervals over prompts, or over roots where prompts are few. */
export function measureShares(roots: readonly ProbedRoot[], measure: string, splits: readonly number[]): MeasureShares {
  const having = roots.filter(({ values }) => values[measure] !== undefined);
  const variances = having.map(({ prompt, values }) => {
    return { prompt, variances: values[measure]!.map(varianceOf) };
  });
  const prompts = [...new Set(variances.map(({ prompt }) => prompt))];
  const units =
    prompts.length < FEWEST_PROMPTS
      ? variances.map((root) => [root])
      : prompts.map((prompt) => variances.filter((root) => root.prompt === prompt));
  const sums = units.map((unit) => splits.map((_, i) => unit.reduce((sum, root) => sum + root.variances[i]!, 0)));
  // The last split is that of independent images.
  const shareOf = (i: number, drawn: Iterable<number>): number => {
    let [part, whole] = [0, 0];
    for (const unit of drawn) {
      part += sums[unit]![i]!;
      whole += sums[unit]!.at(-1)!;
    }
    return part / whole;
  };
  const means = splits.map((_, i) => sums.reduce((sum, unit) => sum + unit[i]!, 0) / having.length);
  const { mean } = meanAndDeviation(having.flatMap(({ values }) => values[measure]!.at(-1)!));
  const varies = Math.sqrt(means.at(-1)!) > ROUNDING * Math.abs(mean);
  const negligible = (ROUNDING * mean) ** 2;
  return {
    roots: having.length,
    mean,
    shares: splits.map((steps, i) => {
      const interval = varies ? bootstrapInterval(sums.length, (drawn) => shareOf(i, drawn)) : null;
      return {
        steps,
        variance: means[i]!,
        share: varies ? finite(shareOf(i, sums.keys())) : null,
        low: finite(interval?.low ?? NaN),
        high: finite(interval?.high ?? NaN),
        differing: variances.filter((root) => root.variances[i]! > negligible).length / having.length,
      };
    }),
  };
}

/** The shares of every measure that a root has, by name. */
export function allShares(roots: readonly ProbedRoot[], splits: readonly number[]): Record<string, MeasureShares> {
  const names = [...new Set(roots.flatMap(({ values }) => Object.keys(values)))];
  return Object.fromEntries(names.map((name) => [name, measureShares(roots, name, splits)]));
}

/** The sample variance. */
function varianceOf(values: readonly number[]): number {
  const { mean } = meanAndDeviation(values);
  return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1);
}

/** JSON has no NaN. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
