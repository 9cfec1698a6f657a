/**
 * `b2 sample`, `b2 select` and `b2 train`: each runs one phase of one stage on a run folder, like the reference's three
 * scripts. `b2 run` does the same in one process.
 */
import type { Command } from "commander";
import type { Trainer } from "../../b2/trainer.js";
import { InputError } from "../../base/errors.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, configOfRun, wholeNumber, type ConfigOptions } from "../options.js";
import { short, terminalProgress } from "../progress.js";

interface StageOptions extends ConfigOptions {
  readonly stage?: number;
}

export function addStageCommands(program: Command): void {
  const add = (
    name: string,
    description: string,
    work: (trainer: Trainer, stage: number) => Promise<string>,
    ...examples: string[]
  ): void => {
    addConfigOptions(program.command(`${name} <folder>`))
      .description(description)
      .option("--stage <number>", "which stage, from 0 (default: the first unfinished one)", wholeNumber(0))
      .addHelpText("after", example(...examples))
      .action(async (folder: string, options: StageOptions) => {
        const config = await configOfRun(folder, options);
        const { stage: wanted } = options;
        if (wanted !== undefined && wanted >= config.stages) {
          throw new InputError(`Expected a stage from 0 to ${config.stages - 1} for --stage but received ${wanted}`);
        }
        await interruptible("What the stage's finished phases wrote is kept.", async (signal) => {
          let stage = 0;
          const progress = terminalProgress(() => `stage ${stage}`);
          const { Trainer } = await import("../../b2/trainer.js");
          const trainer = await Trainer.open(folder, config, { progress, signal });
          stage = wanted ?? trainer.nextStage;
          if (stage >= config.stages) {
            throw new InputError(
              `Expected an unfinished stage but all ${config.stages} are finished; --stage repeats one`,
            );
          }
          process.stdout.write(`stage ${stage}: ${await work(trainer, stage)}\n`);
        });
      });
  };

  add(
    "sample",
    "Sample the branches of one stage into a run folder (begins the run if there is none).",
    async (trainer, stage) => {
      const { sampleStage } = await import("../../b2/stage-phases.js");
      return `${await sampleStage(trainer, stage)} images sampled`;
    },
    "b2 sample runs/mine --preset sd --set model.path=stable-diffusion-v1-5",
    "b2 sample runs/mine",
  );
  add(
    "select",
    "Score the images of one stage and select the branches that train.",
    async (trainer, stage) => {
      const { selectStage } = await import("../../b2/stage-phases.js");
      const { samples, selected, rewardMean } = await selectStage(trainer, stage);
      return `${selected} of ${samples} selected, mean reward ${short(rewardMean)}`;
    },
    "b2 select runs/mine",
  );
  add(
    "train",
    "Train on the selected branches of one stage; this finishes the stage.",
    async (trainer, stage) => {
      const { trainStage } = await import("../../b2/stage-phases.js");
      const { updates, pairs } = await trainStage(trainer, stage);
      return `${updates} updates on ${pairs} pairs`;
    },
    "b2 train runs/mine",
  );
}
