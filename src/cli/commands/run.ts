/** `b2 run`: all stages in one process, with an evaluation before and after. */
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, configOfRun, type ConfigOptions } from "../options.js";
import { duration, terminalProgress } from "../progress.js";
import { evaluationTable } from "../table.js";

interface RunOptions extends ConfigOptions {
  readonly before?: string;
  readonly dryRun?: true;
}

export function addRunCommand(program: Command): void {
  addConfigOptions(program.command("run [folder]"))
    .description("Run all stages of a training, and evaluate before and after. Resumes an interrupted run.")
    .option("--before <run>", "take the evaluation before training from this run, which must have the same base model")
    .option("--dry-run", "print what the run would load, compute and score, then exit")
    .addHelpText(
      "after",
      example(
        "b2 run --preset demo",
        "b2 run runs/mine --preset sd --set model.path=stable-diffusion-v1-5 --set prompts.train=prompts.json",
        "b2 run runs/mine",
      ),
    )
    .action(async (given: string | undefined, options: RunOptions) => {
      if (given === undefined && options.preset.length === 0) {
        throw new InputError("Expected a folder for the run, or --preset to name it after, but received neither");
      }
      const folder = given ?? `runs/${options.preset.join("-")}`;
      const config = await configOfRun(folder, options);
      if (options.dryRun === true) {
        const { dryRun } = await import("../../b2/dry-run.js");
        process.stdout.write(`${dryRun(config)}\n`);
        return;
      }
      const started = performance.now();
      await interruptible(`b2 run ${folder} resumes after the last finished stage.`, async (signal) => {
        let label = "";
        const progress = terminalProgress(() => label);
        const { Experiment } = await import("../../eval/experiment.js");
        progress.log(`loading ${config.model.path}`);
        const experiment = await Experiment.open(folder, config, { progress, signal, before: options.before });
        const result = await experiment.run((stage) => {
          label = stage === undefined ? "" : `stage ${stage + 1}/${config.stages}`;
        });
        if (Object.keys(result.evaluations).length > 0)
          process.stdout.write(`\n${evaluationTable(result.evaluations)}`);
        if (result.warnings.length > 0)
          process.stdout.write(`\nwarnings:\n${result.warnings.map((warning) => `- ${warning}\n`).join("")}`);
        process.stdout.write(
          `\n${[...result.images, folder].join("\n")}\n${duration((performance.now() - started) / 1000)}\n`,
        );
      });
    });
}
