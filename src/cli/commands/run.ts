/** `b2 run`: all stages in one process, with an evaluation before and after. */
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { rowsOf } from "../events.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, configOfRun, type ConfigOptions } from "../options.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { duration } from "../progress.js";
import { evaluationTable } from "../table.js";
import { printOut } from "../terminal.js";

interface RunOptions extends ConfigOptions, OutputOptions {
  readonly before?: string;
  readonly dryRun?: true;
}

export function addRunCommand(program: Command): void {
  addOutputOptions(addConfigOptions(program.command("run [folder]")))
    .description("Run all stages of a training, and evaluate before and after. Resumes an interrupted run.")
    .option("--before <run>", "take the evaluation before training from this run, which must have the same base model")
    .option("--dry-run", "print what the run would load, compute and score, then exit")
    .addHelpText(
      "after",
      example(
        "b2 run --preset demo",
        "b2 run runs/mine --preset sd --set model.path=stable-diffusion-v1-5/stable-diffusion-v1-5 --set prompts.train=prompts.txt --set prompts.heldOut=null",
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
        const { checkTruth } = await import("../../eval/judges.js");
        const { readPromptLists } = await import("../../b2/rollout/prompts.js");
        const lists = readPromptLists(config);
        if (config.eval.enabled) checkTruth(config, lists);
        printOut(`${dryRun(config)}\n`);
        return;
      }
      await interruptible(`b2 run ${folder} resumes after the last finished stage.`, async (signal) => {
        let current: number | undefined;
        const output = new Output("run", options);
        const { Experiment } = await import("../../eval/experiment.js");
        const { stageName } = await import("../../eval/report.js");
        const progress = output.progress(
          () => (current === undefined ? "" : stageName(current, config)),
          () => current,
        );
        const { stages } = config;
        output.started({ folder, model: config.model.path, stages });
        progress.log(`loading ${config.model.path}`);
        const experiment = await Experiment.open(folder, config, { progress, signal, before: options.before });
        const result = await experiment.run({
          before: (stage) => void (current = stage),
          stage: (metrics) => {
            current = undefined;
            output.event({ type: "stage", stage: metrics.stage, stages, metrics });
          },
          evaluation: (name, after, evaluation) =>
            output.event({ type: "evaluation", name, stages: after, rows: rowsOf(evaluation) }),
        });
        if (Object.keys(result.evaluations).length > 0) output.print(`\n${evaluationTable(result.evaluations)}`);
        if (result.warnings.length > 0)
          output.print(`\nwarnings:\n${result.warnings.map((warning) => `- ${warning}\n`).join("")}`);
        output.print(`\n${[...result.images, folder].join("\n")}\n${duration(output.seconds)}\n`);
        output.finished(result.images, { folder });
      });
    });
}
