/** `b2 run`: all stages in one process, with an evaluation before and after. */
import { InvalidArgumentError, type Command } from "commander";
import type { Config } from "../../b2/config/schema.js";
import { InputError } from "../../base/errors.js";
import type { Place } from "../../distributed/environment.js";
import type { Roles } from "../../distributed/roles.js";
import type { Evaluation } from "../../eval/measures.js";
import type { ExperimentResult } from "../../eval/results.js";
import { rowsOf } from "../events.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, configOfRun, type ConfigOptions } from "../options.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { duration } from "../progress.js";
import { evaluationTable } from "../table.js";
import { printOut } from "../terminal.js";
import { amongWorkers } from "../workers.js";

interface RunOptions extends ConfigOptions, OutputOptions {
  readonly before?: string;
  readonly dryRun?: true;
  readonly workerTimeout: number;
  readonly joinTimeout: number;
  readonly rewardRanks: number;
}

export function addRunCommand(program: Command): void {
  addOutputOptions(addConfigOptions(program.command("run [folder]")))
    .description("Run all stages of a training, and evaluate before and after. Resumes an interrupted run.")
    .option("--before <run>", "take the evaluation before training from this run, which must have the same base model")
    .option("--dry-run", "print what the run would load, compute and score, then exit")
    .option("--worker-timeout <seconds>", "of several workers: how long one may give no sign of life", seconds, 30)
    .option("--join-timeout <seconds>", "of several workers: how long to wait until all have come", seconds, 300)
    .option(
      "--reward-ranks <n>",
      "of several workers: how many, the last ones, score images and do not train",
      count,
      0,
    )
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
      const { placeOf } = await import("../../distributed/environment.js");
      const place = options.dryRun === true ? undefined : placeOf(process.env);
      if (place === undefined && options.rewardRanks > 0 && options.dryRun !== true) {
        throw new InputError("Expected several workers for --reward-ranks but this process is alone: see b2 launch");
      }
      if (place !== undefined && place.rank > 0) return follow(place, options);
      if (options.dryRun === true) {
        const config = await configOfRun(folder, options);
        const { dryRun } = await import("../../b2/dry-run.js");
        const { checkTruth } = await import("../../eval/judges.js");
        const { checkRewardsOf } = await import("../../b2/reward-problems.js");
        const { readPromptLists } = await import("../../b2/rollout/prompts.js");
        const lists = readPromptLists(config);
        if (config.eval.enabled) checkTruth(config, lists);
        checkRewardsOf(config, lists);
        printOut(`${dryRun(config)}\n`);
        return;
      }
      const run = async (config: Config, signal: AbortSignal, roles?: Roles): Promise<void> => {
        let current: number | undefined;
        const output = new Output("run", options);
        const [{ planFolder }, { finishedResult }, { stageName }] = [
          await import("../../b2/run-plan.js"),
          await import("../../eval/results.js"),
          await import("../../eval/report.js"),
        ];
        const progress = output.progress(
          () => (current === undefined ? "" : stageName(current, config)),
          () => current,
        );
        const { stages } = config;
        output.started({ folder, model: config.model.path, stages });
        const plan = planFolder(folder, config);
        const evaluation = (name: string, after: number, measured: Evaluation): void =>
          output.event({ type: "evaluation", name, stages: after, rows: rowsOf(measured) });
        const train = async (): Promise<ExperimentResult> => {
          const { Experiment } = await import("../../eval/experiment.js");
          const experiment = await Experiment.openPlanned(plan, {
            progress,
            signal,
            workers: roles?.training,
            rewardRanks: roles?.rewardRanks,
            before: options.before,
          });
          return experiment.run({
            before: (stage) => void (current = stage),
            stage: (metrics) => {
              current = undefined;
              output.event({ type: "stage", stage: metrics.stage, stages, metrics });
            },
            evaluation,
          });
        };
        const finished = finishedResult(plan);
        if (finished !== undefined) {
          if (roles !== undefined) await (await import("../../b2/workers.js")).tellFinished(roles.all);
          plan.notes.forEach((note) => progress.log(note));
          const { before, after } = finished.evaluations;
          if (before !== undefined) evaluation("before", 0, before);
          if (after !== undefined) evaluation("after", stages, after);
        }
        const result = finished ?? (await train());
        if (Object.keys(result.evaluations).length > 0) output.print(`\n${evaluationTable(result.evaluations)}`);
        if (result.warnings.length > 0)
          output.print(`\nwarnings:\n${result.warnings.map((warning) => `- ${warning}\n`).join("")}`);
        if (finished !== undefined) {
          const more = `b2 run ${folder} --set stages=${2 * stages}`;
          output.print(`\nall ${stages} stages are finished; ${more} goes on from there\n`);
        }
        output.print(`\n${[...result.images, folder].join("\n")}\n${duration(output.seconds)}\n`);
        output.finished(result.images, { folder });
      };
      const prepare = (): Promise<Config> => configOfRun(folder, options);
      await interruptible(`b2 run ${folder} resumes after the last finished stage.`, async (signal) =>
        place === undefined
          ? run(await prepare(), signal)
          : amongWorkers(place, options, signal, prepare, (config, roles, signal) => run(config, signal, roles)),
      );
    });
}

/** What a worker does that is not rank 0: it gets everything from there. */
async function follow(place: Place, options: RunOptions): Promise<void> {
  const hint = "The run goes on with any number of workers.";
  const output = new Output("run", { quiet: true });
  await interruptible(hint, (signal) =>
    amongWorkers(place, options, signal, nothing, async (_, roles, signal) => {
      const { runWorker } = await import("../../eval/worker-run.js");
      await runWorker(roles, { progress: output.progress(), signal });
    }),
  );
}

const nothing = (): Promise<void> => Promise.resolve();

function count(text: string): number {
  if (/^\d{1,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("Expected a whole number from 0.");
}

function seconds(text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new InvalidArgumentError("Expected a number of seconds.");
}
