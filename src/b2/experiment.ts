/**
 * A whole run as people want to see it: evaluation and contact sheet before, all stages, the same after, and the curve
 * of the reward. An evaluation that is already in the run folder is not done again.
 */
import { contactSheet, lineChart } from "../images/index.js";
import type { Tensor } from "../torch/index.js";
import { type Metrics, writeFileAtomic } from "../runs/index.js";
import type { Config } from "./config.js";
import { type Evaluation, evaluate } from "./evaluation.js";
import { sheetPictures } from "./generate.js";
import { type Judges, openJudges } from "./judges.js";
import { fetchModels } from "./model-folder.js";
import { type Progress, silent, type RunContext } from "../base/progress.js";
import { type PromptLists, readPromptLists, thinOut } from "./prompts.js";
import { Trainer, type TrainerOptions } from "./trainer.js";

/** What a run leaves for people to read. */
export interface ExperimentResult {
  readonly evaluations: Readonly<Record<string, Evaluation>>;
  /** PNG files. */
  readonly pictures: readonly string[];
}

export class Experiment {
  /** The pictures of the model as it was before the first stage. */
  #before: Tensor[] = [];

  private constructor(
    readonly trainer: Trainer,
    private readonly judges: Judges | undefined,
    private readonly lists: PromptLists,
    private readonly context: RunContext & { readonly progress: Progress },
  ) {}

  /** Loads everything; see Trainer.open for what is refused. */
  static async open(folder: string, config: Config, options: TrainerOptions = {}): Promise<Experiment> {
    const lists = readPromptLists(config);
    // The likeliest mistake, before models are loaded for nothing.
    await fetchModels(config, { progress: options.progress ?? silent, signal: options.signal });
    const judges = config.eval.enabled ? await openJudges(config, options.reward) : undefined;
    const trainer = await Trainer.open(folder, config, { ...options, reward: options.reward ?? judges?.reward });
    return new Experiment(trainer, judges, lists, { progress: options.progress ?? silent, signal: options.signal });
  }

  /** @param onStage told which stage is at work, undefined for what comes before and after */
  async run(onStage: (stage: number | undefined) => void = () => undefined): Promise<ExperimentResult> {
    const { trainer } = this;
    const { config } = trainer;
    // Nothing has been learnt or restored yet: this is the base model.
    const before = await this.#evaluate("before");
    await this.#sheet("before");
    await trainer.runAll({
      before: onStage,
      after: async (metrics) => {
        this.context.progress.log(stageLine(metrics, config));
        this.#curve();
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
      pictures: [sheet, this.#curve()].filter((file) => file !== undefined),
    };
  }

  /** Gives back the models' memory. */
  dispose(): void {
    for (const picture of this.#before) picture.dispose();
    this.trainer.dispose();
  }

  async #evaluate(name: string): Promise<Evaluation | undefined> {
    const { run, policy, config } = this.trainer;
    if (this.judges === undefined) return undefined;
    const known = run.evaluation(name) as Evaluation | undefined;
    if (known !== undefined) return known;
    const evaluation = await evaluate(policy, this.judges, this.lists, config, this.context);
    run.writeEvaluation(name, evaluation);
    return evaluation;
  }

  /** The contact sheet of the model before, or of before and after side by side; the same prompts and noise. */
  async #sheet(name: "before" | "before-after"): Promise<string | undefined> {
    const { run, policy, config } = this.trainer;
    const prompts = thinOut(this.lists.training, config.eval.sheet);
    if (prompts.length === 0) return undefined;
    const images = await sheetPictures(policy, prompts, config, this.context);
    const file = run.picturePath(`${name}.png`);
    if (name === "before") {
      this.#before = images;
      writeFileAtomic(file, contactSheet([{ title: "before", images }], prompts));
      return file;
    }
    try {
      const columns = [
        { title: "before", images: this.#before },
        { title: "after", images },
      ];
      writeFileAtomic(file, contactSheet(columns, prompts));
    } finally {
      for (const image of images) image.dispose();
    }
    return file;
  }

  /** The mean reward of every stage so far, with its standard error. */
  #curve(): string | undefined {
    const { run } = this.trainer;
    const metrics = run.metrics();
    if (metrics.length === 0) return undefined;
    const reward = {
      name: "reward",
      values: metrics.map((stage) => stage["rewardMean"]!),
      spread: metrics.map((stage) => stage["rewardStd"]! / Math.sqrt(stage["images"]!)),
    };
    const file = run.picturePath("reward.png");
    writeFileAtomic(file, lineChart([reward], { title: "Mean reward of a stage's images", xLabel: "stage" }));
    return file;
  }
}

/** A finished stage in one line. */
export function stageLine(metrics: Metrics, { stages }: Config): string {
  const number = (name: string, digits: number): string => {
    const value = metrics[name];
    return typeof value === "number" ? value.toFixed(digits) : "-";
  };
  const seconds = metrics["secondsSample"]! + metrics["secondsScore"]! + metrics["secondsTrain"]!;
  return [
    `stage ${metrics["stage"]! + 1}/${stages}`,
    `reward ${number("rewardMean", 4)}`,
    `last ${number("trainedSteps", 0)} steps`,
    `${number("selected", 0)} of ${number("images", 0)} train`,
    `${number("updates", 0)} updates`,
    `ratio ${number("ratioMin", 3)} to ${number("ratioMax", 3)}`,
    `${seconds.toFixed(1)} s`,
  ].join("  ");
}
