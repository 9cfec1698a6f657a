/** The runs of a grid: a config and a folder for each setting and seed. Nothing is loaded or computed. */
import { join } from "node:path";
import { ConfigError, mergeLayers, resolveConfig } from "../b2/config/resolve.js";
import type { Config } from "../b2/config/schema.js";
import { estimate } from "../b2/dry-run.js";
import { loadPlugins } from "../b2/plugins.js";
import { configOfFolder, goOn, showDifference } from "../b2/run-plan.js";
import { InputError } from "../base/errors.js";
import { RunReader } from "../runs/reader.js";
import { layersOf, type Grid } from "./grid.js";

/** One run of a comparison. */
export interface PlannedRun {
  readonly setting: string;
  readonly seed: number;
  /** An ordinary run folder. */
  readonly folder: string;
  readonly config: Config;
}

/** The folder of a run: `runs/<setting>/seed-<seed>`. */
export const runFolder = (folder: string, setting: string, seed: number): string =>
  join(folder, "runs", setting, `seed-${seed}`);

/** Under a setting's own values: no pictures and no more states than resuming needs. */
const LEAN = { eval: { sheet: 0 }, record: { images: 0, trajectories: 0, optimizers: 1 } };

/**
 * Plans all runs, seed by seed, so that an unfinished comparison has the same seeds of every setting.
 *
 * @throws InputError naming the setting, for a config that cannot run, a budget that is too small for a stage, and a
 *   run that was begun with another config
 */
export async function planRuns(folder: string, grid: Grid): Promise<PlannedRun[]> {
  const configs = new Map<string, Config>();
  for (const setting of Object.keys(grid.settings)) configs.set(setting, await configOf(grid, setting));
  const runs = grid.seeds.flatMap((seed) =>
    [...configs].map(([setting, config]): PlannedRun => {
      return { setting, seed, folder: runFolder(folder, setting, seed), config: { ...config, seed } };
    }),
  );
  runs.forEach(checkBegun);
  return runs;
}

/** Whether a run has nothing left to do. */
export function isFinished({ folder, config }: PlannedRun): boolean {
  if (!RunReader.exists(folder)) return false;
  const reader = new RunReader(folder);
  const isEvaluated = !config.eval.enabled || reader.evaluation("after") !== undefined;
  return isEvaluated && reader.nextStage() >= config.stages;
}

async function configOf(grid: Grid, setting: string): Promise<Config> {
  const layers = [LEAN, ...layersOf(grid, setting)];
  const { plugins } = mergeLayers(...layers);
  await loadPlugins(Array.isArray(plugins) ? plugins.map(String) : []);
  const own = named(setting, () => resolveConfig(...layers));
  const stages = stagesOf(grid, setting, own);
  const every = own.eval.every > 0 ? own.eval.every : Math.max(1, Math.round(stages / grid.evaluations));
  const threads = own.model.threads ?? (own.model.device === "cpu" ? grid.threads : null);
  return named(setting, () => resolveConfig(...layers, { stages, eval: { every }, model: { threads } }));
}

/** As many stages as the budget pays for. */
function stagesOf({ budget }: Grid, setting: string, config: Config): number {
  if (budget === null) return config.stages;
  if ("stages" in budget) return budget.stages;
  const [unit, limit] = Object.entries(budget)[0] as ["queries" | "passes", number];
  const cost = (stages: number): number => costOf({ ...config, stages })[unit];
  if (cost(1) > limit) {
    throw new InputError(
      `Expected a budget of at least ${cost(1)} ${unit}, one stage of the setting ${setting}, but received ${limit}`,
    );
  }
  let [most, tooMany] = [1, 2];
  while (cost(tooMany) <= limit) [most, tooMany] = [tooMany, 2 * tooMany];
  while (tooMany - most > 1) {
    const middle = (most + tooMany) >> 1;
    if (cost(middle) <= limit) most = middle;
    else tooMany = middle;
  }
  return most;
}

/** The queries and passes of a whole run, a backward pass counted as two. An upper bound: selection may skip roots. */
export function costOf(config: Config): { readonly queries: number; readonly passes: number } {
  const { images, samplingPasses, forwardPasses, backwardPasses } = estimate(config);
  return { queries: images, passes: samplingPasses + forwardPasses + 3 * backwardPasses };
}

/** @throws InputError if the run in the folder has results of another config */
function checkBegun({ setting, seed, folder, config }: PlannedRun): void {
  if (!RunReader.exists(folder)) return;
  const reader = new RunReader(folder);
  if (reader.finishedStages().length === 0) return;
  const { config: resumed, changes, deciding: refused } = goOn(configOfFolder(reader), config);
  // An interval that grew over fewer stages than that of other seeds cannot be compared with theirs.
  const isOther = resumed.interval.stages !== config.interval.stages;
  const deciding = isOther ? [...refused, ...changes.filter(({ key }) => key === "stages")] : refused;
  if (deciding.length === 0) return;
  throw new InputError(
    `Expected the config that the run of ${setting} with seed ${seed} was begun with but received other values for\n  ` +
      `${deciding.map(showDifference).join("\n  ")}\nChoose another name for another setting, or delete ${folder}`,
  );
}

/** Names the setting in the problems of its config. */
function named(setting: string, work: () => Config): Config {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(error.problems.map((problem) => `setting ${setting}: ${problem}`));
  }
}
