/**
 * What a run folder says of a run: what made it, how far it is, and what came out. Needs no libtorch, runs no plugin, and
 * takes folders as they come: they may be damaged, of another version, or no runs at all.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { presets } from "../b2/config/presets.js";
import { differences, mergeLayers, resolveConfig, type Difference } from "../b2/config/resolve.js";
import { weightsOfRun } from "../b2/policy/weights.js";
import { InputError } from "../base/errors.js";
import { isJsonObject, type JsonObject } from "../base/files.js";
import { holderOfLock, type Holder } from "../base/lock.js";
import { layout, RunError, RunReader, stageOfEvaluation, type MadeBy, type StageMetrics } from "../runs/index.js";
import type { Estimate, Evaluation } from "./measures.js";
import { readEvaluation } from "./results.js";

/** A run in a line. */
export interface RunSummary {
  readonly folder: string;
  readonly state: "running" | "finished" | "unfinished";
  /** Who works on it now; null if nobody does. */
  readonly holder: Holder | null;
  readonly finishedStages: number;
  /** null where the config does not say. */
  readonly plannedStages: number | null;
  /** Mean reward of the last finished stage. */
  readonly reward: number | null;
  /** Share of right images of its latest evaluation. */
  readonly alignment: { readonly training: number | null; readonly heldOut: number | null } | null;
  /** When a file of it was written last. */
  readonly lastSign: string;
  readonly model: string | null;
  /** The rewards, with their models. */
  readonly rewards: readonly string[];
  /** In order; empty for runs of versions that did not say. */
  readonly madeBy: readonly MadeBy[];
  /** Why parts are missing here: files that cannot be read. */
  readonly problems: readonly string[];
}

/** A folder that is no run, or whose run.json cannot be read. */
export interface UnreadableRun {
  readonly folder: string;
  readonly problem: string;
}

/**
 * The runs in a folder, by name; for a run folder, that run alone.
 *
 * @throws InputError when there is no such folder
 */
export function listRuns(folder: string): (RunSummary | UnreadableRun)[] {
  if (RunReader.exists(folder)) return [summaryOrProblem(folder)];
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch (error) {
    throw new InputError(`Expected a folder of runs but received ${folder} (${(error as Error).message})`);
  }
  const folders = names.sort().map((name) => join(folder, name));
  return folders.filter(isFolder).map(summaryOrProblem);
}

function summaryOrProblem(folder: string): RunSummary | UnreadableRun {
  return attempt(
    () => summariseRun(folder),
    (problem) => ({ folder, problem }),
  );
}

/** @throws RunError where the folder is no run */
export function summariseRun(folder: string): RunSummary {
  const run = new RunReader(folder);
  const { unless, problems } = collector();
  const config = unless<JsonObject, JsonObject>(() => run.config(), {});
  const finished = unless(() => run.finishedStages(), []);
  const planned = Number.isInteger(config["stages"]) ? (config["stages"] as number) : null;
  const last = finished.at(-1);
  const holder = unless(() => holderOfLock(layout.lock(folder)) ?? null, null);
  const isDone = planned !== null && last !== undefined && last + 1 >= planned;
  return {
    folder,
    state: holder !== null ? "running" : isDone ? "finished" : "unfinished",
    holder,
    finishedStages: finished.length,
    plannedStages: planned,
    reward: last === undefined ? null : unless(() => run.stageMetrics(last).rewardMean, null),
    alignment: unless(() => latestAlignment(run), null),
    lastSign: lastSign(run, last),
    model: modelOf(config),
    rewards: run.run.reward === "program" ? ["of the program that began it"] : unless(() => rewardsOf(config), []),
    madeBy: unless(() => makersOf(run), []),
    problems,
  };
}

/** All that `b2 runs show` tells of a run. */
export interface RunDetails extends RunSummary {
  readonly createdAt: string | null;
  readonly config: ConfigBeside | null;
  /** Of the last finished stage. */
  readonly metrics: StageMetrics | null;
  /** By name, from "before" to "after". */
  readonly evaluations: Readonly<Record<string, Evaluation>>;
  /** What there is to look at and to use, as paths. */
  readonly files: readonly string[];
}

/** @throws RunError where the folder is no run */
export function describeRun(folder: string): RunDetails {
  const summary = summariseRun(folder);
  const run = new RunReader(folder);
  const { unless, problems } = collector();
  const last = unless(() => run.finishedStages(), []).at(-1);
  const names = unless(() => run.evaluationNames(), []).sort((a, b) => orderOf(a) - orderOf(b));
  const { createdAt } = run.run as { createdAt?: unknown };
  return {
    ...summary,
    createdAt: typeof createdAt === "string" ? createdAt : null,
    config: unless(() => besidePreset(run.config()), null),
    metrics: last === undefined ? null : unless(() => run.stageMetrics(last), null),
    evaluations: Object.fromEntries(
      names.flatMap((name) => {
        const evaluation = unless(() => readEvaluation(run, name), undefined);
        return evaluation === undefined ? [] : [[name, evaluation]];
      }),
    ),
    files: [
      ...(last === undefined ? [] : unless(() => [weightsOfRun(folder).path], [])),
      ...["model", "before-after.png", "reward.png", "metrics.jsonl", "warnings.jsonl", "config.json"]
        .map((name) => join(folder, name))
        .filter((file) => existsSync(file)),
    ],
    problems: [...new Set([...summary.problems, ...problems])],
  };
}

/** A config beside the preset, or the defaults, that it differs from least. */
export interface ConfigBeside {
  /** null for the defaults. */
  readonly preset: string | null;
  readonly differences: readonly Difference[];
}

function besidePreset(config: object): ConfigBeside {
  const own = mergeLayers(config);
  const bases = [[null, {}], ...Object.entries(presets)] as const;
  const all = bases.flatMap(([preset, values]): ConfigBeside[] => {
    // Some presets are meant to go on top of others.
    const base = attempt(
      () => resolveConfig(values),
      () => undefined,
    );
    // Keys that a run of an earlier version lacks are as the defaults.
    const found = base && differences(base, own).filter(({ after }) => after !== undefined);
    return found === undefined ? [] : [{ preset, differences: found }];
  });
  return all.reduce((best, one) => (one.differences.length < best.differences.length ? one : best));
}

/** Two runs beside each other. */
export interface RunComparison {
  readonly runs: readonly [RunDetails, RunDetails];
  /** The keys in which their configs differ. */
  readonly config: readonly Difference[];
}

/** @throws RunError and other errors of files where one of the folders is no run, or cannot be read */
export function compareRuns(a: string, b: string): RunComparison {
  // What a run of an earlier version lacks is as the defaults.
  const configOf = (folder: string): object => mergeLayers(resolveConfig({}), new RunReader(folder).config());
  return { runs: [describeRun(a), describeRun(b)], config: differences(configOf(a), configOf(b)) };
}

/** Does work that a damaged file may stop, and keeps the reasons. */
function collector() {
  const problems: string[] = [];
  const unless = <T, F>(work: () => T, fallback: F): T | F =>
    attempt(work, (problem) => {
      problems.push(problem);
      return fallback;
    });
  return { unless, problems };
}

/** Errors of damaged or foreign files, whatever they are, as a sentence. */
function attempt<T, F>(work: () => T, failed: (problem: string) => F): T | F {
  try {
    return work();
  } catch (error) {
    return failed(error instanceof Error ? error.message : String(error));
  }
}

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

function latestAlignment(run: RunReader): RunSummary["alignment"] {
  const latest = run.evaluationNames().sort((a, b) => orderOf(b) - orderOf(a))[0];
  const evaluation = latest === undefined ? undefined : readEvaluation(run, latest);
  if (evaluation === undefined) return null;
  const of = (list: string): number | null => {
    const estimate: Estimate | null | undefined = evaluation.rows.find(
      ({ prompts }) => prompts === list,
    )?.trueAlignment;
    return estimate?.mean ?? null;
  };
  const [training, heldOut] = [of("training"), of("held-out")];
  return training === null && heldOut === null ? null : { training, heldOut };
}

const orderOf = (evaluation: string): number =>
  evaluation === "before" ? 0 : evaluation === "after" ? Infinity : (stageOfEvaluation(evaluation) ?? -1);

/** The newest of the files that a run writes as it goes. */
function lastSign({ folder }: RunReader, last = -1): string {
  const stages = [last, last + 1].map((stage) => layout.stage(folder, stage));
  const files = [layout.run, layout.lock, layout.metrics, layout.evaluations].map((of) => of(folder)).concat(stages);
  const times = files.map((file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  return new Date(Math.max(...times)).toISOString();
}

function modelOf({ model }: Record<string, unknown>): string | null {
  const path = isJsonObject(model) ? model["path"] : undefined;
  return typeof path === "string" ? path : null;
}

/** `clip-score (models/emoji-clip)`, with the weight where it is not 1, or the word that it is a judge. */
function rewardsOf(config: object): string[] {
  const { rewards } = mergeLayers(config);
  if (!Array.isArray(rewards)) return [];
  return rewards.filter(isJsonObject).map(({ name, weight = 1, role, model, path }) => {
    const what = [model, path].find((value) => typeof value === "string");
    const before = role === "judge" ? "judge " : weight === 1 ? "" : `${String(weight)} x `;
    return `${before}${String(name)}${what === undefined ? "" : ` (${what})`}`;
  });
}

function makersOf({ folder, run }: RunReader): readonly MadeBy[] {
  const { madeBy = [] } = run as { madeBy?: unknown };
  const isMaker = (maker: unknown): boolean =>
    isJsonObject(maker) &&
    ["b2", "libtorch", "processor", "device"].every((key) => typeof maker[key] === "string") &&
    ["fromStage", "threads"].every((key) => typeof maker[key] === "number");
  if (Array.isArray(madeBy) && madeBy.every(isMaker)) return madeBy as MadeBy[];
  throw new RunError(`Expected a list of what made the run for madeBy in ${layout.run(folder)}`);
}
