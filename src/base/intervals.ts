/**
 * Percentile bootstrap intervals (Efron 1979): the statistic of many resamples of the units, drawn with replacement,
 * and the quantiles between which 95% of them lie.
 *
 * A unit is what would be drawn again in another study: a prompt within one evaluation, a seed where runs are compared.
 * The resamples are the same at every call: all n^n of them for up to 5 units, else RESAMPLES random ones.
 */
import { philox4x32 } from "./philox.js";

/** A statistic and its 95% interval; null bounds where there is only one unit. */
export interface Interval {
  readonly mean: number;
  readonly low: number | null;
  readonly high: number | null;
}

const RESAMPLES = 4000;
const MOST_ENUMERATED = 5;
const COVERAGE = 0.95;

/** The key of the random resamples, whatever is resampled. */
const KEY = 0x62326231;

/**
 * The 95% interval of a statistic.
 *
 * @param n units
 * @param statistic of a resample, given as n indices of units. Infinite values count as such; NaN is left out.
 * @returns null for fewer than two units, or if no resample has a statistic
 */
export function bootstrapInterval(
  n: number,
  statistic: (units: Readonly<Uint32Array>) => number,
): { low: number; high: number } | null {
  if (n < 2) return null;
  const values = resamples(n)
    .map(statistic)
    .filter((value) => !Number.isNaN(value));
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const tail = (1 - COVERAGE) / 2;
  return { low: quantile(sorted, tail), high: quantile(sorted, 1 - tail) };
}

/** The mean and its interval, weighted if weights are given; null for no values. */
export function meanInterval(values: readonly number[], weights?: readonly number[]): Interval | null {
  if (values.length === 0) return null;
  const mean = (units: Iterable<number>): number => {
    let [sum, total] = [0, 0];
    for (const unit of units) {
      const weight = weights?.[unit] ?? 1;
      sum += weight * values[unit]!;
      total += weight;
    }
    return sum / total;
  };
  const bounds = bootstrapInterval(values.length, mean);
  return { mean: mean(values.keys()), low: bounds?.low ?? null, high: bounds?.high ?? null };
}

const known = new Map<number, readonly Uint32Array[]>();

/** The resamples of n units. */
function resamples(n: number): readonly Uint32Array[] {
  let all = known.get(n);
  if (all === undefined) known.set(n, (all = n <= MOST_ENUMERATED ? everyResample(n) : randomResamples(n)));
  return all;
}

/** All n^n: the digits of 0..n^n - 1 in base n. */
const everyResample = (n: number): Uint32Array[] =>
  Array.from({ length: n ** n }, (_, number) =>
    Uint32Array.from({ length: n }, (_, digit) => Math.floor(number / n ** digit) % n),
  );

function randomResamples(n: number): Uint32Array[] {
  const block = new Uint32Array(4);
  return Array.from({ length: RESAMPLES }, (_, resample) => {
    const units = new Uint32Array(n);
    for (let i = 0; i < n; i++) {
      if (i % 4 === 0) philox4x32(block, i / 4, resample, n, 0, KEY, 0);
      units[i] = Math.floor((block[i % 4]! / 2 ** 32) * n);
    }
    return units;
  });
}

/** The smallest value that at least a share p of the values do not exceed. */
function quantile(sorted: Float64Array, p: number): number {
  const index = Math.ceil(p * sorted.length - 1e-9) - 1;
  return sorted[Math.min(sorted.length - 1, Math.max(0, index))]!;
}
