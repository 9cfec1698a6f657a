/** `b2 compare`: a grid of settings and seeds, each run in a process of its own, and a report on them. */
import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { InvalidArgumentError, type Command } from "commander";
import { InputError } from "../../base/errors.js";
import type { OnState } from "../../compare/execute.js";
import type { Grid } from "../../compare/grid.js";
import type { PlannedRun } from "../../compare/plan.js";
import { findAddon } from "../../torch/addon.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { collect, wholeNumber } from "../options.js";
import { makeOutputFolder } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { columns } from "../table.js";
import { printOut } from "../terminal.js";

interface CompareOptions extends OutputOptions {
  readonly grid?: string;
  readonly seeds?: number[];
  readonly stages?: number;
  readonly queries?: number;
  readonly passes?: number;
  readonly evaluations?: number;
  readonly baseline?: string;
  readonly set: readonly string[];
  readonly plugin: readonly string[];
  readonly device?: string;
  readonly dtype?: string;
  readonly jobs?: number;
  readonly target?: number;
  readonly dryRun?: true;
}

export function addCompareCommand(program: Command): void {
  const compare = addOutputOptions(program.command("compare <folder> [settings...]"))
    .description(
      "Train several settings with several seeds, and compare them at equal queries, passes and seconds. A setting is " +
        "presets or config files joined by plus signs, with a name and config values if wanted. Resumes what is " +
        "unfinished; without settings, that of the comparison in the folder.",
    )
    .option("--grid <file>", "read settings, seeds and budget from a JSON file (docs/compare.md)")
    .option("--seeds <list>", "seeds of each setting, such as 1,2,3 (default: 1,2,3,4)", seedList)
    .option("--stages <number>", "stages of each run (default: what each setting says)", wholeNumber(1))
    .option("--queries <number>", "as many stages as cost this many reward queries", wholeNumber(1, 1e12))
    .option("--passes <number>", "as many stages as cost this many passes through the denoiser", wholeNumber(1, 1e12))
    .option("--evaluations <number>", "evaluations of each run, evenly spread (default: 8)", wholeNumber(1))
    .option("--baseline <setting>", "what the others are compared with (default: the first setting)")
    .option("--set <key=value>", "a config value of all settings; repeatable", collect, [])
    .option("--plugin <module>", "a module that registers rewards, objectives and the like; repeatable", collect, [])
    .option("--device <name>", "cpu, cuda, cuda:<index> or mps, for all settings")
    .option("--dtype <name>", "float32, bfloat16 or float16, for all settings")
    .option("--jobs <number>", "runs at once (default: one per core, or one on other devices)", wholeNumber(1))
    .option("--target <value>", TARGET_HELP, finiteNumber)
    .option("--dry-run", "print what would be run and what it costs, then exit")
    .addHelpText(
      "after",
      example(
        "b2 compare comparisons/demo demo-ddpo demo-b2 demo --seeds 1,2,3,4 --queries 2880",
        'b2 compare comparisons/rate demo "fast=demo train.learningRate=6e-3" --jobs 2',
        "b2 compare comparisons/demo",
      ),
    )
    .action(async (folder: string, settings: readonly string[], options: CompareOptions) => {
      const [{ writeGrid }, { isFinished, planRuns }] = [
        await import("../../compare/grid.js"),
        await import("../../compare/plan.js"),
      ];
      const given = await gridOf(folder, settings, options);
      const jobs = options.jobs ?? (usesCpu(given) ? availableParallelism() : 1);
      const threads = given.threads ?? Math.max(1, Math.floor(availableParallelism() / jobs));
      const grid = { ...given, threads };
      const runs = await planRuns(folder, grid);
      if (options.dryRun === true) {
        printOut(`${await costTable(runs)}\n`);
        return;
      }
      findAddon();
      makeOutputFolder(folder);
      writeGrid(folder, grid);
      const output = new Output("compare", options);
      output.started({ folder, settings: Object.keys(grid.settings), seeds: grid.seeds, runs: runs.length, jobs });
      await interruptible(`b2 compare ${folder} resumes the runs.`, async (signal) => {
        const [{ executeRuns, logFile, logTail }, { CompareProgress }] = [
          await import("../../compare/execute.js"),
          await import("../compare-progress.js"),
        ];
        const progress = output.isShown ? new CompareProgress(runs, { jobs, finished: isFinished }) : undefined;
        const onState: OnState = (run, state) => {
          progress?.change(run, state);
          output.event({ type: "run", setting: run.setting, seed: run.seed, folder: run.folder, state });
        };
        const failed = await executeRuns(runs, { jobs, onState, signal }).finally(() => progress?.close());
        if (failed.length > 0) {
          const reasons = failed.map((run) => `${run.setting} seed ${run.seed} (${logFile(run)}):\n${logTail(run)}`);
          throw new InputError(`Expected all runs to finish but ${failed.length} failed\n${reasons.join("\n")}`);
        }
      });
      await report(folder, options, output);
    });

  compare
    .command("report <folder>")
    .description("Write the report of a comparison again, from what its runs have measured so far.")
    .option("--target <value>", TARGET_HELP, finiteNumber)
    .addHelpText("after", example("b2 compare report comparisons/demo --target 0.7"))
    // The option of compare itself takes a target that is given here.
    .action((folder: string, _, command: Command) => {
      const options = command.optsWithGlobals<CompareOptions>();
      const output = new Output("compare report", options);
      output.started({ folder });
      return report(folder, options, output);
    });
}

const TARGET_HELP = "true alignment (or reward) whose cost is reported (default: the baseline's at its end)";

/** Writes the report into the comparison's folder and prints what matters most. */
async function report(folder: string, { target }: Pick<CompareOptions, "target">, output: Output): Promise<void> {
  const { writeReport } = await import("../../compare/write-report.js");
  const { summaryTables } = await import("../../compare/tables.js");
  const { report, files } = writeReport(folder, { target });
  for (const { title, head, rows } of summaryTables(report)) {
    output.print(`${title}\n${columns([head, ...rows.map((row) => row.map(({ text }) => text))])}\n\n`);
  }
  output.print(`${files.join("\n")}\n`);
  output.finished(files, { folder });
}

/** The grid of the options, over that of the file or of the comparison in the folder. */
async function gridOf(folder: string, settings: readonly string[], options: CompareOptions): Promise<Grid> {
  const { changeGrid, gridFile, parseSettings, readGrid } = await import("../../compare/grid.js");
  const { mergeLayers, parseAssignments } = await import("../../b2/config/resolve.js");
  const { grid, seeds, stages, queries, passes, evaluations, baseline, set, plugin, device, dtype } = options;
  const budgets = [stages && { stages }, queries && { queries }, passes && { passes }].filter(
    (one) => one !== undefined,
  );
  if (budgets.length > 1) {
    throw new InputError("Expected one of --stages, --queries and --passes but received several");
  }
  const file = grid ?? (existsSync(gridFile(folder)) ? gridFile(folder) : undefined);
  return changeGrid(file === undefined ? undefined : readGrid(file), {
    settings: parseSettings(settings),
    seeds,
    budget: budgets[0] as Grid["budget"] | undefined,
    evaluations,
    baseline,
    common: mergeLayers(parseAssignments(set), {
      ...(plugin.length > 0 && { plugins: plugin.map((path) => resolve(path)) }),
      ...((device ?? dtype) !== undefined && { model: { device, dtype } }),
    }),
  });
}

/** Whether all settings compute on the CPU, as far as values that name a device say. */
const usesCpu = (grid: Grid): boolean => !/"device":"(?!cpu")/.test(JSON.stringify([grid.settings, grid.common]));

/** Settings with their stages and costs of one run, as far as the config decides them. */
async function costTable(runs: readonly PlannedRun[]): Promise<string> {
  const { costOf } = await import("../../compare/plan.js");
  const { estimate } = await import("../../b2/dry-run.js");
  const one = [...new Map(runs.map((run) => [run.setting, run])).values()];
  const whole = (count: number): string => count.toLocaleString("en-US");
  const lines = one.map(({ setting, config }) => {
    const { queries, passes } = costOf(config);
    return [setting, whole(config.stages), whole(queries), whole(passes), whole(estimate(config).evaluationImages)];
  });
  const table = columns([["setting", "stages", "queries", "passes", "evaluation images"], ...lines]);
  return `${table}\n(of one run; ${runs.length} runs in all; passes are an upper bound)`;
}

function seedList(text: string): number[] {
  const seeds = text.split(",").map((part) => part.trim());
  if (seeds.every((seed) => /^\d+$/.test(seed) && Number(seed) < 2 ** 32)) return seeds.map(Number);
  throw new InvalidArgumentError(`Expected whole numbers such as 1,2,3 but received ${text}.`);
}

function finiteNumber(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new InvalidArgumentError(`Expected a number such as 0.7 but received ${text}.`);
}
