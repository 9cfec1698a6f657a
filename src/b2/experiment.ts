/**
 * A whole run as people want to see it: evaluation and contact sheet before, all stages, the same after, and the curve
 * of the reward. Each part that is already in the run folder is not done again.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { contactSheet, lineChart } from "../images/index.js";
import { type Metrics, writeFileAtomic } from "../runs/index.js";
import type { Config } from "./config.js";
import { type Evaluation, evaluate } from "./evaluation.js";
import { sheetPictures } from "./generate.js";
import { type Judges, openJudges } from "./judges.js";
import { type PromptLists, readPromptLists, thinOut } from "./prompts.js";
import { type Progress, silent, type Surroundings } from "./progress.js";
import { Trainer, type TrainerOptions } from "./trainer.js";

/** What a run leaves for people to read. */
export interface ExperimentResult {
  readonly evaluations: Readonly<Record<string, Evaluation>>;
  /** PNG files. */
  readonly pictures: readonly string[];
}

export class Experiment {
  private constructor(
    readonly trainer: Trainer,
    private readonly judges: Judges | undefined,
    private readonly lists: PromptLists,
    private readonly surroundings: Surroundings & { readonly progress: Progress },
  ) {}

  /** Loads everything; see Trainer.open for what is refused. */
  static async open(folder: string, config: Config, options: TrainerOptions = {}): Promise<Experiment> {
    const lists = readPromptLists(config);
    const judges = config.eval.enabled ? await openJudges(config, options.reward) : undefined;
    const trainer = await Trainer.open(folder, config, { ...options, reward: options.reward ?? judges?.reward });
    return new Experiment(trainer, judges, lists, { progress: options.progress ?? silent, signal: options.signal });
  }

  /** @param onStage told which stage is at work, undefined for what comes before and after */
  async run(onStage: (stage: number | undefined) => void = () => undefined): Promise<ExperimentResult> {
    const { trainer } = this;
    const { config } = trainer;
    const before = await trainer.policy.asBase(() => this.#evaluate("before"));
    await this.#sheet("before");
    await trainer.runAll({
      before: onStage,
      after: async (metrics) => {
        this.surroundings.progress.log(stageLine(metrics, config));
        await this.#curve();
        const done = metrics["stage"]! + 1;
        if (config.eval.every > 0 && done % config.eval.every === 0 && done < config.stages) {
          await this.#evaluate(`stage-${String(done).padStart(4, "0")}`);
        }
      },
    });
    onStage(undefined);
    const after = await this.#evaluate("after");
    const sheet = await this.#sheet("before-after");
    return {
      evaluations: before === undefined || after === undefined ? {} : { before, after },
      pictures: [sheet, await this.#curve()].filter((file) => file !== undefined),
    };
  }

  async #evaluate(name: string): Promise<Evaluation | undefined> {
    const { run, policy, config } = this.trainer;
    if (this.judges === undefined) return undefined;
    const known = run.evaluation(name) as Evaluation | undefined;
    if (known !== undefined) return known;
    const evaluation = await evaluate(policy, this.judges, this.lists, config, this.surroundings);
    run.writeEvaluation(name, evaluation);
    return evaluation;
  }
}
