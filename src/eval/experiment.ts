/**
 * A whole run with its reports: evaluation and contact sheet before, all stages, the same after, and the curve of the
 * reward. An evaluation that is already in the run folder is not repeated.
 *
 * Of several workers each runs this. Rank 0 has the run folder, decides by it what is to be done, and alone writes.
 */
import { resolveConfig } from "../b2/config/resolve.js";
import type { ConfigInput } from "../b2/config/schema.js";
import { fetchModels } from "../b2/models.js";
import { promptsOfRun } from "../b2/prompts-of-run.js";
import { endRewardRanks } from "../b2/remote-rewards.js";
import { thinOut, type PromptLists } from "../b2/rollout/prompts.js";
import { planFolder, withDevice, type FolderPlan } from "../b2/run-plan.js";
import { Trainer, type TrainerOptions } from "../b2/trainer.js";
import { tellPlan } from "../b2/workers.js";
import { writeFileAtomic } from "../base/files.js";
import { silent, warn } from "../base/progress.js";
import { alone, type Group, type WithWorkers } from "../distributed/index.js";
import { resolveModel } from "../hub/index.js";
import { contactSheet } from "../images/index.js";
import { RewardResources } from "../rewards/index.js";
import { evaluationAfter, RunReader, type StageMetrics } from "../runs/index.js";
import type { Tensor } from "../torch/index.js";
import { baseEvaluation } from "./base-evaluation.js";
import { evaluate } from "./evaluate.js";
import { sheetImages } from "./generate.js";
import { checkTruth, openJudges, type Judges } from "./judges.js";
import type { Evaluation } from "./measures.js";
import { rewardCurve, stageLine, stageName } from "./report.js";
import {
  evaluationsOf,
  isDue,
  readEvaluation,
  unevaluatedStages,
  warningsOf,
  type ExperimentResult,
} from "./results.js";
import { summarise, type WarningKind } from "./warnings.js";

/** What a program can pass besides the config. */
export interface ExperimentOptions extends TrainerOptions {
  /** A run folder whose evaluation before training is taken over; it must be this base model's. */
  readonly before?: string | undefined;
}

/** Measures with the right weights in place. */
type Within = (measure: () => Promise<Evaluation>) => Promise<Evaluation>;

/** Callbacks around what a run does. */
export interface ExperimentHooks {
  /** Called with each stage before it runs, and with undefined after the last. */
  readonly before?: (stage: number | undefined) => void;
  /** Called with the metrics of a finished stage. */
  readonly stage?: (metrics: StageMetrics) => void;
  /** Called with every evaluation, and after how many stages it is. One that was in the run folder counts as well. */
  readonly evaluation?: (name: string, stages: number, evaluation: Evaluation) => void;
}

/** A Trainer with evaluations and contact sheets around it. Owns the models: call `dispose`. */
export class Experiment {
  readonly trainer: Trainer;
  readonly #judges: Judges | undefined;
  readonly #lists: PromptLists;
  readonly #context: WithWorkers;
  readonly #workers: Group;
  readonly #known: Readonly<Record<string, Evaluation | undefined>>;
  /** By kind, the stage of the last warning. */
  readonly #warned = new Map<WarningKind, number>();
  /** Images of the model before the first stage. */
  #before: Tensor[] = [];

  private constructor(
    trainer: Trainer,
    judges: Judges | undefined,
    lists: PromptLists,
    context: WithWorkers,
    known: Readonly<Record<string, Evaluation | undefined>>,
  ) {
    this.trainer = trainer;
    this.#judges = judges;
    this.#lists = lists;
    this.#context = context;
    this.#workers = context.workers ?? alone;
    this.#known = known;
  }

  /** Loads the models and begins or resumes a run. @throws InputError, see Trainer.open */
  static async open(folder: string, config: ConfigInput, options: ExperimentOptions = {}): Promise<Experiment> {
    const programReward = options.reward !== undefined;
    return Experiment.openPlanned(planFolder(folder, resolveConfig(config), { programReward }), options);
  }

  /** Like `open`, for a folder that has been looked at. */
  static async openPlanned(folderPlan: FolderPlan, options: ExperimentOptions = {}): Promise<Experiment> {
    const { reward, progress = silent, signal, workers = alone, rewardRanks } = options;
    const context = { progress, signal, workers, rewardRanks };
    const all = rewardRanks?.all ?? workers;
    const isFirst = all.rank === 0;
    const rewards = reward === undefined && rewardRanks === undefined;
    const plan = withDevice(folderPlan);
    const evaluation = plan.config.eval.enabled;
    let before: Evaluation | undefined;
    try {
      if (evaluation) checkTruth(plan.config, plan.lists);
      if (options.before !== undefined) before = baseEvaluation(options.before, plan.config);
      if (plan.mode === "resume") evaluationsOf(new RunReader(plan.folder), plan.config.stages);
      if (isFirst && all.size > 1) await tellPlan(all, plan);
      // Rank 0 downloads what is missing first: workers of one host share its cache.
      if (!isFirst) await all.barrier();
      await fetchModels(plan.config, { rewards, evaluation }, context);
      if (isFirst) await all.barrier();
    } catch (error) {
      plan.lock?.release();
      throw error;
    }
    progress.log(`loading ${plan.config.model.path}`);
    const resources = new RewardResources(plan.device, resolveModel, plan.folder);
    const next = plan.mode === "resume" ? new RunReader(plan.folder).nextStage() : 0;
    const prompts = promptsOfRun(plan.lists, next, plan.config);
    const trainer = await Trainer.begin(plan, resources, context, { reward, prompts });
    try {
      const judges = evaluation ? openJudges(plan.config, trainer.rewards, resources) : undefined;
      return new Experiment(trainer, judges, plan.lists, context, { before });
    } catch (error) {
      trainer.dispose();
      throw error;
    }
  }

  /**
   * Runs all unfinished stages, with evaluations and contact sheets before and after.
   *
   * @throws Interrupted when the signal aborts; finished stages are kept
   */
  async run(hooks: ExperimentHooks = {}): Promise<ExperimentResult> {
    const { trainer } = this;
    const { config } = trainer;
    const evaluate = async (name: string, stages: number, within?: Within): Promise<Evaluation | undefined> => {
      const evaluation = await this.#evaluate(name, within);
      if (evaluation !== undefined) hooks.evaluation?.(name, stages, evaluation);
      return evaluation;
    };
    // Nothing has been learnt or restored yet: this is the base model.
    const before = await evaluate("before", 0);
    await this.#sheet("before");
    for (const stage of await this.#workers.broadcastJson(unevaluatedStages(trainer.run, config))) {
      this.#context.progress.log(`evaluating after ${stageName(stage, config)}, which was not done`);
      await evaluate(evaluationAfter(stage + 1), stage + 1, (measure) => trainer.evaluatingStage(stage, measure));
    }
    await trainer.runAll({
      before: (stage) => hooks.before?.(stage),
      after: async (metrics) => {
        this.#context.progress.log(stageLine(metrics, config));
        hooks.stage?.(metrics);
        this.#warn();
        this.#curve();
        const done = metrics.stage + 1;
        if (isDue(done, config)) await evaluate(evaluationAfter(done), done);
      },
    });
    hooks.before?.(undefined);
    const after = await evaluate("after", config.stages);
    const sheet = await this.#sheet("before-after");
    const { rewardRanks } = this.#context;
    if (rewardRanks?.all.rank === 0) await endRewardRanks(rewardRanks);
    // Again, because a kill may have come after the last stage.
    this.#warn();
    return {
      evaluations: before === undefined || after === undefined ? {} : { before, after },
      warnings: summarise(warningsOf(trainer.run, config)),
      images: [sheet, this.#curve()].filter((file) => file !== undefined),
    };
  }

  /** Frees the models' memory. */
  dispose(): void {
    for (const image of this.#before) image.dispose();
    this.#judges?.dispose?.();
    this.trainer.dispose();
  }

  /** @param within how to have the weights in place; default: those that are the result so far */
  async #evaluate(
    name: string,
    within: Within = (measure) => this.trainer.evaluating(measure),
  ): Promise<Evaluation | undefined> {
    const { run, writer, policy, config } = this.trainer;
    if (this.#judges === undefined) return undefined;
    const written = readEvaluation(run, name);
    const known = written ?? this.#known[name];
    const judges = this.#judges;
    const measure = (): Promise<Evaluation> => evaluate(policy, judges, this.#lists, config, this.#context);
    const isKnown = await this.#workers.broadcastJson(known !== undefined);
    const evaluation = isKnown ? known : await within(measure);
    if (evaluation === undefined || evaluation === written || this.#workers.rank > 0) return evaluation;
    writer.writeEvaluation(name, evaluation);
    this.#warn();
    return evaluation;
  }

  /** Says what is new among the run's warnings, and keeps all of them in its folder. */
  #warn(): void {
    if (this.#workers.rank > 0) return;
    const { run, writer, config } = this.trainer;
    const warnings = warningsOf(run, config);
    const stage = run.nextStage();
    for (const warning of warnings) {
      const { kind, text } = warning;
      // Not again in every stage that follows.
      const known = this.#warned.get(kind);
      if (warning.stage !== stage || known === stage) continue;
      if (known !== stage - 1) warn(this.#context.progress, { kind, text, stages: stage });
      this.#warned.set(kind, stage);
    }
    if (warnings.length > 0) writer.writeWarnings(warnings);
  }

  /** Writes the sheet of the model before training, or of before and after side by side, from the same noise. */
  async #sheet(name: "before" | "before-after"): Promise<string | undefined> {
    const { writer, policy, config } = this.trainer;
    const { training, "held-out": heldOut = [] } = this.#lists;
    const lists = { "training prompts": training, "held-out prompts": heldOut };
    const chosen = Object.entries(lists).map(([title, list]) => ({ title, list: thinOut(list, config.eval.sheet) }));
    const parts = chosen.filter(({ list }) => list.length > 0);
    const prompts = parts.flatMap(({ list }) => list);
    if (prompts.length === 0) return undefined;
    const sections = parts.map(({ title, list }) => ({ length: list.length, ...(parts.length > 1 && { title }) }));
    const images = await this.trainer.evaluating(() => sheetImages(policy, prompts, config, this.#context));
    const file = writer.picturePath(`${name}.png`);
    if (this.#workers.rank > 0) {
      for (const image of images) image.dispose();
      return undefined;
    }
    if (name === "before") {
      this.#before = images;
      writeFileAtomic(file, contactSheet([{ title: "before", images }], prompts, { sections }));
      return file;
    }
    try {
      const columns = [
        { title: "before", images: this.#before },
        { title: "after", images },
      ];
      writeFileAtomic(file, contactSheet(columns, prompts, { sections }));
    } finally {
      for (const image of images) image.dispose();
    }
    return file;
  }

  #curve(): string | undefined {
    if (this.#workers.rank > 0) return undefined;
    const { run, writer } = this.trainer;
    const metrics = run.metrics();
    if (metrics.length === 0) return undefined;
    const file = writer.picturePath("reward.png");
    writeFileAtomic(file, rewardCurve(metrics));
    return file;
  }
}
