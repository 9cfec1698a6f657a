/**
 * `b2 sample`, `b2 select` and `b2 train`: each runs one phase of one stage on a run folder, like the reference's three
 * scripts. `b2 run` does the same in one process.
 */
import type { Command } from "commander";
import type { Phase } from "../../b2/stage-phases.js";
import type { Trainer } from "../../b2/trainer.js";
import { InputError } from "../../base/errors.js";
import { RunReader } from "../../runs/reader.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, configOfRun, wholeNumber, type ConfigOptions } from "../options.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { short } from "../progress.js";

interface StageOptions extends ConfigOptions, OutputOptions {
  readonly stage?: number;
}

/** What a phase did, in words and in the fields of an event. */
type PhaseResult = { readonly text: string } & Readonly<Record<string, unknown>>;

export function addStageCommands(program: Command): void {
  const add = (
    name: Phase,
    description: string,
    work: (trainer: Trainer, stage: number) => Promise<PhaseResult>,
    ...examples: string[]
  ): void => {
    addOutputOptions(addConfigOptions(program.command(`${name} <folder>`)))
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
          const output = new Output(name, options);
          const progress = output.progress(
            () => `stage ${stage}`,
            () => stage,
          );
          output.started({ folder, model: config.model.path, stages: config.stages });
          const [{ planFolder }, { expectPhase }, { Trainer }] = [
            await import("../../b2/run-plan.js"),
            await import("../../b2/stage-phases.js"),
            await import("../../b2/trainer.js"),
          ];
          const plan = planFolder(folder, config);
          const run = plan.mode === "resume" ? new RunReader(folder) : undefined;
          stage = wanted ?? run?.nextStage() ?? 0;
          if (stage >= config.stages) {
            throw new InputError(
              `Expected an unfinished stage but all ${config.stages} are finished; --stage ${config.stages - 1} repeats the last one`,
            );
          }
          expectPhase(name, stage, folder, run);
          const trainer = await Trainer.openPlanned(plan, { progress, signal });
          const { text, ...found } = await work(trainer, stage);
          output.print(`stage ${stage}: ${text}\n`);
          output.finished([], { folder, stage, ...found });
        });
      });
  };

  add(
    "sample",
    "Sample the branches of one stage into a run folder (begins the run if there is none).",
    async (trainer, stage) => {
      const { sampleStage } = await import("../../b2/stage-phases.js");
      const images = await sampleStage(trainer, stage);
      return { text: `${images} images sampled`, images };
    },
    "b2 sample runs/mine --preset sd --set model.path=stable-diffusion-v1-5/stable-diffusion-v1-5",
    "b2 sample runs/mine",
  );
  add(
    "select",
    "Score the images of one stage and select the branches that train.",
    async (trainer, stage) => {
      const { selectStage } = await import("../../b2/stage-phases.js");
      const { samples, selected, rewardMean } = await selectStage(trainer, stage);
      const text = `${selected} of ${samples} selected, mean reward ${short(rewardMean)}`;
      return { text, images: samples, selected, rewardMean };
    },
    "b2 select runs/mine",
  );
  add(
    "train",
    "Train on the selected branches of one stage; this finishes the stage.",
    async (trainer, stage) => {
      const { trainStage } = await import("../../b2/stage-phases.js");
      const { updates, pairs } = await trainStage(trainer, stage);
      return { text: `${updates} updates on ${pairs} pairs`, updates, pairs };
    },
    "b2 train runs/mine",
  );
}
