/**
 * The percentile bootstrap (Efron 1979): intervals for a statistic without assuming a distribution. Units are drawn with
 * replacement, the statistic is computed again for each draw, and the interval holds the middle of what comes out.
 */
import { uniform } from "./philox.js";

/** An interval; both ends are NaN where no draw gives a finite value. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

export interface BootstrapOptions {
  /** The same seed gives the same intervals. */
  readonly seed: number;
  /** Default 1000. */
  readonly draws?: number;
  /** The share of draws that the interval holds. Default 0.95. */
  readonly level?: number;
}

/**
 * Intervals of several statistics from the same draws.
 *
 * @param units what is drawn: independent of each other, such as the prompts of an experiment
 * @param statistics of some units; values that are not finite do not count
 */
export function bootstrap<Unit>(
  units: readonly Unit[],
  statistics: (drawn: readonly Unit[]) => readonly number[],
  { seed, draws = 1000, level = 0.95 }: BootstrapOptions,
): Interval[] {
  const results = Array.from({ length: draws }, (_, draw) => {
    const pick = (place: number): Unit => {
      const u = uniform({
        seed,
        stream: "bootstrap",
        stage: 0,
        root: draw,
        branch: place >>> 16,
        step: place & 0xffff,
      });
      return units[Math.floor(u * units.length)]!;
    };
    return statistics(units.map((_, place) => pick(place)));
  });
  const tail = (1 - level) / 2;
  return (results[0] ?? []).map((_, i) => {
    const values = results.map((result) => result[i]!).filter(Number.isFinite);
    values.sort((a, b) => a - b);
    return { low: quantile(values, tail), high: quantile(values, 1 - tail) };
  });
}

/** The quantile of sorted values, linear between them. */
function quantile(sorted: readonly number[], q: number): number {
  if (sorted.length === 0) return NaN;
  const at = q * (sorted.length - 1);
  const below = sorted[Math.floor(at)]!;
  return below + (at - Math.floor(at)) * (sorted[Math.ceil(at)]! - below);
}
