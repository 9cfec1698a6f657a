/**
 * The report of a comparison as data, from its run folders: finished and unfinished ones. What people read is made of
 * it: tables.ts, figures.ts, page.ts.
 */
import { join } from "node:path";
import { InputError } from "../base/errors.js";
import { meanInterval, type Interval } from "../base/intervals.js";
import { RunReader } from "../runs/reader.js";
import {
  atEqualCost,
  atTarget,
  costToTarget,
  finalValue,
  meanCurve,
  runsOf,
  type AtTarget,
  type CostToTarget,
  type CurvePoint,
  type EqualCost,
} from "./analysis.js";
import { readCurves, type Axis, type RunCurves } from "./curves.js";
import { baselineOf, type Grid } from "./grid.js";
import { isDiversity, splitKey } from "./measures.js";
import { runFolder } from "./plan.js";

type BySetting<T> = Readonly<Record<string, T>>;

/** The mean over seeds of an evaluation: its costs, and the measure. */
export interface MeanEvaluation {
  readonly stage: number;
  readonly cost: Readonly<Record<Axis, number>>;
  readonly value: Interval;
}

/** A measure by setting. */
export interface MeasureReport {
  /** Such as `training/trueAlignment`. */
  readonly key: string;
  readonly curves: Readonly<Partial<Record<Axis, BySetting<readonly CurvePoint[]>>>>;
  readonly evaluations: BySetting<readonly MeanEvaluation[]>;
  readonly final: BySetting<Interval>;
  /** Without the baseline. */
  readonly equalCost: Readonly<Partial<Record<Axis, BySetting<EqualCost>>>>;
}

/** Costs until a measure reaches a value. */
export interface TargetReport {
  readonly key: string;
  readonly target: number;
  readonly costs: Readonly<Partial<Record<Axis, BySetting<CostToTarget>>>>;
  /** What diversity is left there, by the key of its measure; without settings that do not get there. */
  readonly diversities: Readonly<Record<string, BySetting<AtTarget>>>;
}

/** See the top of this file. */
export interface Report {
  readonly baseline: string;
  /** In the grid's order; those without a run are left out. */
  readonly settings: readonly string[];
  readonly seeds: readonly number[];
  /** Costs by which the settings are compared. */
  readonly axes: readonly Axis[];
  readonly runs: readonly RunCurves[];
  readonly measures: readonly MeasureReport[];
  readonly targets: readonly TargetReport[];
}

/** What a report can be asked for. */
export interface ReportOptions {
  /** The alignment (or reward, where there is no judge) to reach; default: the baseline's at its end. */
  readonly target?: number | undefined;
}

/** @throws InputError when no run of the baseline has been measured */
export function buildReport(folder: string, grid: Grid, { target }: ReportOptions = {}): Report {
  const baseline = baselineOf(grid);
  const all = Object.keys(grid.settings).flatMap((setting) =>
    grid.seeds.flatMap((seed) => readCurves(folder, setting, seed) ?? []),
  );
  const compared = all.filter(takesPart(all));
  const settings = Object.keys(grid.settings).filter((name) => compared.some(({ setting }) => setting === name));
  if (!settings.includes(baseline)) {
    throw new InputError(`Expected a run of the baseline ${baseline} in ${folder} but received none that is measured`);
  }
  const seconds: Axis = usesCpu(folder, compared) ? "processorSeconds" : "seconds";
  const axes: Axis[] = ["queries", "passes", seconds];
  const keys = [...new Set(compared.flatMap(({ points }) => points.flatMap(({ measures }) => Object.keys(measures))))];
  const measures = keys.map((key) => measureReport(compared, { key, settings, baseline, axes }));
  const targets = targetKeys(keys).map((key): TargetReport => {
    const of = (setting: string): RunCurves[] => runsOf(compared, setting, key);
    const value = target ?? finalValue(of(baseline), key)!.mean;
    const costs = byAxis(axes, (axis) =>
      bySetting(settings, (setting) =>
        of(setting).length === 0 ? undefined : costToTarget(of(setting), of(baseline), key, axis, target),
      ),
    );
    const list = splitKey(key).list;
    const diverse = keys.filter((other) => splitKey(other).list === list && isDiversity(splitKey(other).name));
    const diversities = Object.fromEntries(
      diverse.map((other) => {
        const having = (setting: string): RunCurves[] => runsOf(of(setting), setting, other);
        const left = (setting: string): AtTarget | undefined =>
          atTarget(having(setting), having(baseline), { reaches: key, key: other, target }) ?? undefined;
        return [other, bySetting(settings, left)];
      }),
    );
    return { key, target: value, costs, diversities };
  });
  const seeds = grid.seeds.filter((seed) => compared.some((run) => run.seed === seed));
  return { baseline, settings, seeds, axes, runs: all, measures, targets };
}

/** Finished runs take part; where a setting has none, those that have begun. */
export function takesPart(all: readonly RunCurves[]): (run: RunCurves) => boolean {
  const isFinished = ({ stages, planned, points }: RunCurves): boolean =>
    stages >= planned && points.at(-1)!.stage >= Math.min(planned, stages) - 1;
  const settled = new Set(all.filter(isFinished).map(({ setting }) => setting));
  return (run) => !settled.has(run.setting) || isFinished(run);
}

function measureReport(
  runs: readonly RunCurves[],
  {
    key,
    settings,
    baseline,
    axes,
  }: { key: string; settings: readonly string[]; baseline: string; axes: readonly Axis[] },
): MeasureReport {
  const of = (setting: string): RunCurves[] => runsOf(runs, setting, key);
  return {
    key,
    curves: byAxis(axes, (axis) => bySetting(settings, (setting) => meanCurve(of(setting), key, axis))),
    evaluations: bySetting(settings, (setting) => meanEvaluations(of(setting), key)),
    final: bySetting(settings, (setting) => finalValue(of(setting), key) ?? undefined),
    equalCost: byAxis(axes, (axis) =>
      bySetting(
        settings.filter((setting) => setting !== baseline),
        (setting) => atEqualCost(of(setting), of(baseline), key, axis) ?? undefined,
      ),
    ),
  };
}

/** The means over seeds of the evaluations that all runs have. */
function meanEvaluations(runs: readonly RunCurves[], key: string): MeanEvaluation[] {
  const [first] = runs;
  return (first?.points ?? []).flatMap(({ stage }): MeanEvaluation[] => {
    const points = runs.flatMap(
      (run) => run.points.find((point) => point.stage === stage && key in point.measures) ?? [],
    );
    if (points.length < runs.length) return [];
    const mean = (axis: Axis): number => points.reduce((sum, { cost }) => sum + cost[axis], 0) / points.length;
    const cost = {
      queries: mean("queries"),
      passes: mean("passes"),
      seconds: mean("seconds"),
      processorSeconds: mean("processorSeconds"),
    };
    return [{ stage, cost, value: meanInterval(points.map(({ measures }) => measures[key]!))! }];
  });
}

/** What costs are counted up to: the true alignment of each list, or its reward. */
function targetKeys(keys: readonly string[]): string[] {
  const lists = [...new Set(keys.map((key) => splitKey(key).list))];
  return lists.flatMap((list) => {
    const own = [`${list}/trueAlignment`, `${list}/reward`].find((key) => keys.includes(key));
    return own === undefined ? [] : [own];
  });
}

/** The alignment that the diversities of a list are drawn against, if it has any. */
export function alignmentAndDiversity({ measures }: Report, list: string): [MeasureReport, MeasureReport][] {
  const find = (name: string): MeasureReport | undefined => measures.find(({ key }) => key === `${list}/${name}`);
  const alignment = find("trueAlignment") ?? find("reward");
  if (alignment === undefined) return [];
  return measures
    .filter(({ key }) => splitKey(key).list === list && isDiversity(splitKey(key).name))
    .map((diversity) => [alignment, diversity]);
}

function usesCpu(folder: string, runs: readonly RunCurves[]): boolean {
  return runs.every(({ setting, seed }) => {
    const { model } = new RunReader(join(runFolder(folder, setting, seed))).config() as { model?: { device?: string } };
    return (model?.device ?? "cpu") === "cpu";
  });
}

function bySetting<T>(settings: readonly string[], of: (setting: string) => T | undefined): Record<string, T> {
  return Object.fromEntries(
    settings.flatMap((setting): [string, T][] => {
      const value = of(setting);
      return value === undefined ? [] : [[setting, value]];
    }),
  );
}

const byAxis = <T>(axes: readonly Axis[], of: (axis: Axis) => T): Partial<Record<Axis, T>> =>
  Object.fromEntries(axes.map((axis) => [axis, of(axis)]));
