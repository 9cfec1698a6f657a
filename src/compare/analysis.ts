/**
 * Settings compared at equal costs. The measures of a run are linear between its evaluations. The units of all
 * intervals are seeds: the prompts are taken as given, and a difference is that of runs with the same seed.
 */
import { bootstrapInterval, meanInterval, type Interval } from "../base/intervals.js";
import type { Axis, RunCurves } from "./curves.js";

/** A mean over seeds at a cost, with its 95% interval. */
export interface CurvePoint extends Interval {
  readonly at: number;
}

/** A setting against the baseline at the largest cost that all their runs have reached. */
export interface EqualCost {
  readonly at: number;
  readonly value: Interval;
  readonly baseline: Interval;
  /** Setting minus baseline, seed by seed; null without a common seed. */
  readonly difference: Interval | null;
}

/** What it costs until the mean over seeds reaches a target; infinite where it never does. */
export interface CostToTarget {
  readonly cost: number;
  /** Its interval over the seeds that both have. */
  readonly low: number | null;
  readonly high: number | null;
  /** Share of the baseline's cost, over the same seeds; null where neither reaches the target. */
  readonly ratio: Interval | null;
}

/** A measure where another first reaches a target, with its 95% interval. */
export interface AtTarget {
  readonly value: Interval;
  /** Minus the baseline's where that reaches the target, over the seeds that both have. */
  readonly difference: Interval | null;
}

/** Of sums over seeds. */
const ROUNDING = 1e-12;

/** Points of a mean curve. */
const CURVE_POINTS = 41;

/** The runs of a setting that have a measure, ordered by seed. */
export const runsOf = (runs: readonly RunCurves[], setting: string, key: string): RunCurves[] =>
  runs.filter((run) => run.setting === setting && hasMeasure(run, key)).sort((a, b) => a.seed - b.seed);

const hasMeasure = ({ points }: RunCurves, key: string): boolean => points.some(({ measures }) => key in measures);

/** A run's measure at a cost: linear between evaluations, constant before the first and after the last. */
export function valueAt({ points }: RunCurves, key: string, axis: Axis, at: number): number {
  const own = points.filter(({ measures }) => key in measures);
  const after = own.findIndex(({ cost }) => cost[axis] >= at);
  if (after < 0) return own.at(-1)!.measures[key]!;
  if (after === 0) return own[0]!.measures[key]!;
  const [a, b] = [own[after - 1]!, own[after]!];
  const share = (at - a.cost[axis]) / (b.cost[axis] - a.cost[axis]);
  return a.measures[key]! + share * (b.measures[key]! - a.measures[key]!);
}

/** The largest cost at which all these runs have been measured. */
export const commonCost = (runs: readonly RunCurves[], axis: Axis): number =>
  Math.min(...runs.map(({ points }) => points.at(-1)!.cost[axis]));

/** The mean over seeds from no cost to the last that all of them have reached, at evenly spread costs. */
export function meanCurve(runs: readonly RunCurves[], key: string, axis: Axis): CurvePoint[] {
  if (runs.length === 0) return [];
  const end = commonCost(runs, axis);
  return Array.from({ length: CURVE_POINTS }, (_, i) => {
    const at = (end * i) / (CURVE_POINTS - 1);
    return { at, ...meanInterval(runs.map((run) => valueAt(run, key, axis, at)))! };
  });
}

/** The last values of the runs, whatever they have cost. */
export const finalValue = (runs: readonly RunCurves[], key: string): Interval | null =>
  meanInterval(runs.map((run) => lastValue(run, key)));

const lastValue = ({ points }: RunCurves, key: string): number =>
  points.findLast(({ measures }) => key in measures)!.measures[key]!;

/** Compares two settings at equal cost; null if either has no run. */
export function atEqualCost(
  runs: readonly RunCurves[],
  baseline: readonly RunCurves[],
  key: string,
  axis: Axis,
): EqualCost | null {
  if (runs.length === 0 || baseline.length === 0) return null;
  const at = commonCost([...runs, ...baseline], axis);
  const values = (of: readonly RunCurves[]): number[] => of.map((run) => valueAt(run, key, axis, at));
  const differences = pairs(runs, baseline).map(([one, other]) => {
    return valueAt(one, key, axis, at) - valueAt(other, key, axis, at);
  });
  return {
    at,
    value: meanInterval(values(runs))!,
    baseline: meanInterval(values(baseline))!,
    difference: meanInterval(differences),
  };
}

/** Runs of two settings that have the same seed. */
function pairs(runs: readonly RunCurves[], others: readonly RunCurves[]): [RunCurves, RunCurves][] {
  return runs.flatMap((run): [RunCurves, RunCurves][] => {
    const other = others.find(({ seed }) => seed === run.seed);
    return other === undefined ? [] : [[run, other]];
  });
}

/**
 * The cost at which the mean over seeds first reaches the target, and its share of the baseline's.
 *
 * @param target undefined for what the baseline reaches in the end; each resample then has its own
 */
export function costToTarget(
  runs: readonly RunCurves[],
  baseline: readonly RunCurves[],
  key: string,
  axis: Axis,
  target?: number,
): CostToTarget {
  const paired = pairs(runs, baseline);
  const [own, other] = [paired.map(([run]) => run), paired.map(([, run]) => run)];
  const [reachOfOwn, reachOfOther] = [reachOf(own, key, axis), reachOf(other, key, axis)];
  const targetOf = targetFor(other, key, target);
  const costOf = (seeds: readonly number[]): number => reachOfOwn(seeds, targetOf(seeds));
  const ratioOf = (seeds: readonly number[]): number => costOf(seeds) / reachOfOther(seeds, targetOf(seeds));
  const bounds = bootstrapInterval(paired.length, (seeds) => costOf([...seeds]));
  const ratioBounds = bootstrapInterval(paired.length, (seeds) => ratioOf([...seeds]));
  const ratio = paired.length === 0 ? NaN : ratioOf([...paired.keys()]);
  return {
    cost: reachOf(runs, key, axis)([...runs.keys()], target ?? finalValue(baseline, key)!.mean),
    low: bounds?.low ?? null,
    high: bounds?.high ?? null,
    ratio: Number.isNaN(ratio) ? null : { mean: ratio, low: ratioBounds?.low ?? null, high: ratioBounds?.high ?? null },
  };
}

/**
 * The mean over seeds of a measure at the queries with which the mean of another first reaches the target: what diversity
 * is left at equal alignment.
 *
 * @param target undefined for what the baseline reaches in the end; each resample then has its own
 * @returns null where the target is never reached
 */
export function atTarget(
  runs: readonly RunCurves[],
  baseline: readonly RunCurves[],
  { reaches, key, target }: { reaches: string; key: string; target?: number | undefined },
): AtTarget | null {
  const paired = pairs(runs, baseline);
  const targetOf = targetFor(
    paired.map(([, run]) => run),
    reaches,
    target,
  );
  const meanOver = (of: readonly RunCurves[]): ((drawn: readonly number[]) => number) => {
    const reach = reachOf(of, reaches, "queries");
    return (drawn) => {
      const at = reach(drawn, targetOf(drawn));
      return Number.isFinite(at) ? mean(drawn.map((run) => valueAt(of[run]!, key, "queries", at))) : NaN;
    };
  };
  const own = meanOver(paired.map(([run]) => run));
  const others = meanOver(paired.map(([, run]) => run));
  const value = estimate(paired.length, own);
  return value && { value, difference: estimate(paired.length, (drawn) => own(drawn) - others(drawn)) };
}

/** What some of the runs, given by their indices, have to reach: the target, or what the baseline does in the end. */
function targetFor(
  baseline: readonly RunCurves[],
  key: string,
  target: number | undefined,
): (drawn: readonly number[]) => number {
  const lasts = baseline.map((run) => lastValue(run, key));
  return (drawn) => target ?? mean(drawn.map((run) => lasts[run]!));
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** A statistic of all units and its interval; null where it is not a number. */
function estimate(n: number, statistic: (drawn: readonly number[]) => number): Interval | null {
  const whole = n === 0 ? NaN : statistic([...Array(n).keys()]);
  if (Number.isNaN(whole)) return null;
  const bounds = bootstrapInterval(n, (drawn) => statistic([...drawn]));
  return { mean: whole, low: bounds?.low ?? null, high: bounds?.high ?? null };
}

/**
 * Where the mean curve of some of these runs, given by their indices, first reaches a target. The mean is linear between
 * two costs at which any run was evaluated. Runs of one setting differ in seconds; one that has ended counts with its last
 * value, so that every setting reaches its own end.
 */
function reachOf(
  runs: readonly RunCurves[],
  key: string,
  axis: Axis,
): (drawn: readonly number[], target: number) => number {
  const costs = [...new Set(runs.flatMap(({ points }) => points.map(({ cost }) => cost[axis])))].sort((a, b) => a - b);
  const values = runs.map((run) => costs.map((at) => valueAt(run, key, axis, at)));
  const ends = runs.map((run) => commonCost([run], axis));
  return (drawn, target) => {
    const end = Math.max(...drawn.map((run) => ends[run]!));
    let before = { at: 0, value: -Infinity };
    for (const [i, at] of costs.entries()) {
      if (at > end) break;
      const value = drawn.reduce((sum, run) => sum + values[run]![i]!, 0) / drawn.length;
      if (value >= target - ROUNDING) {
        const share = before.value === -Infinity ? 1 : (target - before.value) / (value - before.value);
        return before.at + share * (at - before.at);
      }
      before = { at, value };
    }
    return Infinity;
  };
}
