/** What a run's folder says of its results: evaluations, warnings, pictures. Needs no libtorch. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../b2/config/schema.js";
import { remeasures, resumeFolder, type FolderPlan } from "../b2/run-plan.js";
import { evaluationAfter, layout, RunReader, stageOfEvaluation } from "../runs/index.js";
import type { Evaluation } from "./measures.js";
import { parseEvaluation } from "./parse-evaluation.js";
import { runWarnings, summarise, type EvaluationAt, type Warning } from "./warnings.js";

/** The reports of a run. */
export interface ExperimentResult {
  /** By name, "before" and "after"; empty if evaluation is disabled. */
  readonly evaluations: Readonly<Record<string, Evaluation>>;
  /** Signs that the training went wrong, one line for each kind. */
  readonly warnings: readonly string[];
  /** PNG files. */
  readonly images: readonly string[];
}

/** An evaluation of a run; undefined if there is none. @throws InputError naming the file when it is damaged */
export function readEvaluation(run: RunReader, name: string): Evaluation | undefined {
  const json = run.evaluation(name);
  return json === undefined ? undefined : parseEvaluation(json, layout.evaluation(run.folder, name));
}

/** All evaluations of a run, by how many stages came before them. @param stages before "after" */
export function evaluationsOf(run: RunReader, stages: number): EvaluationAt[] {
  const found = run.evaluationNames().flatMap((name): EvaluationAt[] => {
    const stage = name === "before" ? 0 : name === "after" ? stages : stageOfEvaluation(name);
    return stage === undefined ? [] : [{ stage, evaluation: readEvaluation(run, name)! }];
  });
  return found.sort((a, b) => a.stage - b.stage);
}

/** All warnings of a run. */
export const warningsOf = (run: RunReader, { stages }: Pick<Config, "stages">): Warning[] =>
  runWarnings(run.metrics(), evaluationsOf(run, stages));

/** Whether a run is evaluated after so many stages, besides before the first and after the last. */
export const isDue = (done: number, { eval: { enabled, every }, stages }: Pick<Config, "eval" | "stages">): boolean =>
  enabled && every > 0 && done % every === 0 && done < stages;

/**
 * The finished stages after which an evaluation is due that the folder does not have: a kill came between, or the config
 * did not ask for it then. Those whose weights are gone do not count.
 */
export const unevaluatedStages = (run: RunReader, config: Config): number[] =>
  run
    .finishedStages()
    .filter((stage) => isDue(stage + 1, config) && run.evaluation(evaluationAfter(stage + 1)) === undefined)
    .filter((stage) => run.has(stage, "lora") || run.has(stage, "denoiser"));

/**
 * The results of a run that has nothing left to do; undefined if there is something. Loads no model.
 *
 * @param plan keeps its lock
 * @throws InputError naming a file that is damaged
 */
export function finishedResult(plan: FolderPlan): ExperimentResult | undefined {
  const { folder, config, mode, changes } = plan;
  if (mode !== "resume" || remeasures(changes)) return undefined;
  const run = new RunReader(folder);
  if (run.nextStage() < config.stages || unevaluatedStages(run, config).length > 0) return undefined;
  const [before, after] = [readEvaluation(run, "before"), readEvaluation(run, "after")];
  const { enabled, sheet } = config.eval;
  if (enabled && (before === undefined || after === undefined)) return undefined;
  const pictures = [...(sheet > 0 ? ["before-after.png"] : []), "reward.png"].map((name) => join(folder, name));
  if (!pictures.every((file) => existsSync(file))) return undefined;
  resumeFolder(plan);
  return {
    evaluations: enabled ? { before: before!, after: after! } : {},
    warnings: summarise(warningsOf(run, config)),
    images: pictures,
  };
}
