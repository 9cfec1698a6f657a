/** What a comparison's runs have measured, and what it had cost by then. Reads run folders; needs no libtorch. */
import { existsSync, readdirSync } from "node:fs";
import { InputError } from "../base/errors.js";
import { isJsonObject } from "../base/files.js";
import { passesOf, type Cost } from "../runs/cost.js";
import { layout } from "../runs/layout.js";
import { RunReader } from "../runs/reader.js";
import { runFolder } from "./plan.js";

/** The costs by which settings are compared. */
export const axes = ["queries", "passes", "seconds", "processorSeconds"] as const;

/** The name of a cost. */
export type Axis = (typeof axes)[number];

/** Costs so far, and all measures at that point by their keys. */
export interface Point {
  readonly stage: number;
  readonly cost: Readonly<Record<Axis, number>>;
  readonly measures: Readonly<Record<string, number>>;
}

/** One run of a comparison. */
export interface RunCurves {
  readonly setting: string;
  readonly seed: number;
  /** Stages that are finished, and those planned. */
  readonly stages: number;
  readonly planned: number;
  /** The evaluations, from that before training on; without evaluations the stages' own rewards. */
  readonly points: readonly Point[];
}

/** Where the images of a measure come from. */
export type PromptList = "training" | "held-out" | "stage";

/** Key of the reward of the images that a stage was trained on, in runs that are never evaluated. */
const STAGE_REWARD = "stage/reward";

/** Reads a run of a comparison; undefined while it has nothing to show. */
export function readCurves(folder: string, setting: string, seed: number): RunCurves | undefined {
  const path = runFolder(folder, setting, seed);
  if (!RunReader.exists(path)) return undefined;
  const run = new RunReader(path);
  const costs = new Map(run.metrics().map(({ stage, cost }) => [stage + 1, costOf(cost, path, stage)]));
  const evaluated = evaluationsOf(run).filter(({ stage }) => stage === 0 || costs.has(stage));
  const points =
    evaluated.length > 0
      ? evaluated.map(({ stage, name }): Point => {
          return {
            stage,
            cost: costAt(costs, stage),
            measures: measuresOf(run.evaluation(name), layout.evaluation(path, name)),
          };
        })
      : // A stage's images are sampled by the weights of the stages before it.
        run.metrics().map(({ stage, rewardMean }): Point => {
          return { stage, cost: costAt(costs, stage), measures: { [STAGE_REWARD]: rewardMean } };
        });
  if (points.length === 0) return undefined;
  const planned = Number((run.config() as { stages?: unknown }).stages);
  return { setting, seed, stages: run.nextStage(), planned, points };
}

const NOTHING: Point["cost"] = { queries: 0, passes: 0, seconds: 0, processorSeconds: 0 };

/** The costs after so many stages. */
const costAt = (costs: ReadonlyMap<number, Point["cost"]>, stages: number): Point["cost"] =>
  costs.get(stages) ?? NOTHING;

function costOf(cost: Cost | null, folder: string, stage: number): Point["cost"] {
  if (cost === null) {
    throw new InputError(
      `Expected the cost of stage ${stage} in ${folder} but received none; its run was begun by an earlier version`,
    );
  }
  const { queries, seconds, processorSeconds } = cost;
  return { queries, passes: passesOf(cost), seconds, processorSeconds };
}

/** The evaluations of a run by how many stages came before them, in order. */
function evaluationsOf(run: RunReader): { stage: number; name: string }[] {
  const folder = layout.evaluations(run.folder);
  if (!existsSync(folder)) return [];
  const last = run.nextStage();
  const found = new Map<number, string>();
  for (const file of readdirSync(folder)) {
    const [, name, number] = /^(before|after|stage-(\d+))\.json$/.exec(file) ?? [];
    if (name === undefined) continue;
    found.set(name === "before" ? 0 : name === "after" ? last : Number(number), name);
  }
  return [...found].map(([stage, name]) => ({ stage, name })).sort((a, b) => a.stage - b.stage);
}

/**
 * Every mean of an evaluation, by keys such as `training/reward`, `held-out/slots.animal`. Whatever measures a version
 * writes appear by themselves: an object with a number as its `mean` is one.
 */
function measuresOf(evaluation: unknown, file: string): Record<string, number> {
  const { rows } = evaluation as { rows?: unknown };
  if (!Array.isArray(rows) || !rows.every(isRow)) {
    throw new InputError(`Expected the results of an evaluation in ${file} but received another thing`);
  }
  return Object.fromEntries(
    rows.flatMap(({ prompts, ...row }) =>
      meansOf(row).map(([name, mean]): [string, number] => [`${prompts}/${name}`, mean]),
    ),
  );
}

const isRow = (row: unknown): row is Record<string, unknown> & { readonly prompts: string } =>
  isJsonObject(row) && typeof row["prompts"] === "string";

function meansOf(values: Record<string, unknown>, prefix = ""): [name: string, mean: number][] {
  const entries = Object.entries(values).filter((entry): entry is [string, Record<string, unknown>] => {
    return isJsonObject(entry[1]);
  });
  return entries.flatMap(([name, value]): [string, number][] => {
    if (typeof value["mean"] === "number") return [[prefix + name, value["mean"]]];
    // The only reward is the reward.
    if (name === "rewards" && Object.keys(value).length < 2) return [];
    return meansOf(value, `${prefix}${name}.`);
  });
}
