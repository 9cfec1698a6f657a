/** `b2 runs`: what run folders say, without loading a model. */
import type { Command } from "commander";
import type { Difference } from "../../b2/config/resolve.js";
import { InputError } from "../../base/errors.js";
import { printable, show } from "../../base/show.js";
import type { Evaluation } from "../../eval/measures.js";
import type { RunCheck } from "../../eval/run-check.js";
import type { RunRepair } from "../../eval/run-repair.js";
import type { ConfigBeside, RunComparison, RunDetails, RunSummary, UnreadableRun } from "../../eval/run-summary.js";
import { passesOf } from "../../runs/cost.js";
import type { MadeBy } from "../../runs/layout.js";
import type { StageMetrics } from "../../runs/metrics.js";
import { example } from "../help.js";
import { columns, evaluationTable } from "../table.js";
import { printOut } from "../terminal.js";

interface JsonOption {
  readonly json?: true;
}

export function addRunsCommand(program: Command): void {
  const runs = program
    .command("runs")
    .description("List runs, show one, compare two, or check one: what made them, their configs, results and files.")
    .addHelpText("after", example("b2 runs list", "b2 runs show runs/demo", "b2 runs diff runs/demo runs/mine"));
  const asJson = (command: Command): Command => command.option("--json", "print JSON");

  asJson(runs.command("list [folder]", { isDefault: true }))
    .description("List the runs in a folder: stages, reward, alignment, last sign of life, what made them.")
    .addHelpText("after", example("b2 runs list", "b2 runs list comparisons/demo/runs/b2 --json"))
    .action(async (given: string | undefined, options: JsonOption) => {
      const folder = given ?? "runs";
      const { listRuns } = await import("../../eval/run-summary.js");
      const found = listRuns(folder);
      write(options, found, () => listText(folder, found));
    });

  asJson(runs.command("show <run>"))
    .description("Show a run: what made it, its config beside the nearest preset, its results and files.")
    .addHelpText("after", example("b2 runs show runs/demo"))
    .action(async (folder: string, options: JsonOption) => {
      const { describeRun } = await import("../../eval/run-summary.js");
      const run = readable(() => describeRun(folder));
      write(options, run, () => detailsText(run));
    });

  asJson(runs.command("check <run>"))
    .description(
      "Read all of a run and say what is missing, damaged, left over or does not agree. Exit code 2 if anything is.",
    )
    .option(
      "--repair",
      "delete leftovers, write metrics.jsonl again, and set damaged files aside that can be made again",
    )
    .addHelpText("after", example("b2 runs check runs/demo", "b2 runs check runs/demo --repair"))
    .action(async (folder: string, options: JsonOption & { readonly repair?: true }) => {
      const check = await readableLater(async () => {
        if (options.repair === true) return (await import("../../eval/run-repair.js")).repairRun(folder);
        return (await import("../../eval/run-check.js")).checkRun(folder);
      });
      write(options, check, () => checkText(check));
      if (check.findings.length > 0) process.exitCode = 2;
    });

  asJson(runs.command("diff <a> <b>"))
    .description("Compare two runs: the keys in which their configs differ, and their results.")
    .addHelpText("after", example("b2 runs diff runs/demo runs/mine"))
    .action(async (a: string, b: string, options: JsonOption) => {
      const { compareRuns } = await import("../../eval/run-summary.js");
      const comparison = readable(() => compareRuns(a, b));
      write(options, comparison, () => comparisonText(comparison));
    });
}

/** Whatever a foreign file does to those who read it, it is bad input. */
function readable<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw asInputError(error);
  }
}

async function readableLater<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asInputError(error);
  }
}

function asInputError(error: unknown): InputError {
  if (error instanceof InputError) return new InputError(printable(error.message), { cause: error });
  return new InputError(`Expected a run that can be read but received: ${printable(String(error))}`, { cause: error });
}

function write({ json }: JsonOption, data: unknown, text: () => string): void {
  const output = json === true ? JSON.stringify(data, null, 2) : text();
  // Folders, labels and prompts may come from anywhere.
  printOut(`${output.split("\n").map(printable).join("\n")}\n`);
}

function checkText(check: RunCheck | RunRepair): string {
  const { folder, files, finishedStages, findings } = check;
  const repaired = "repaired" in check ? check.repaired : [];
  const read = `${printable(folder)}: ${files} files of ${finishedStages} finished ${finishedStages === 1 ? "stage" : "stages"}`;
  const done = repaired.map(({ path, problem, remedy }) => `${remedy}: ${printable(`${path}: ${problem}`)}`);
  const left = findings.map(({ kind, path, problem, cost, advice }) =>
    [`${kind}: ${path}: ${problem}`, `  costs: ${cost}`, `  to do: ${advice}`].map(printable).join("\n"),
  );
  const summary = findings.length === 0 ? `${read}, sound` : `${read}, ${findings.length} to look at`;
  return [...(done.length > 0 ? [done.join("\n")] : []), ...left, summary].join("\n\n");
}

function listText(folder: string, found: readonly (RunSummary | UnreadableRun)[]): string {
  if (found.length === 0) return `no runs in ${folder}`;
  const runs = found.filter((one): one is RunSummary => !("problem" in one));
  const unreadable = found.filter((one): one is UnreadableRun => "problem" in one);
  const heading = ["run", "stages", "reward", "alignment", "held-out", "last sign of life", "made by"];
  const lines = runs.map((run) => [
    run.folder,
    stagesText(run),
    number(run.reward),
    percent(run.alignment?.training),
    percent(run.alignment?.heldOut),
    run.holder === null ? ago(run.lastSign) : `running, ${holderText(run)}`,
    run.madeBy.length === 0 ? "-" : makerText(run.madeBy.at(-1)!),
  ]);
  const table = runs.length === 0 ? [] : [columns([heading, ...lines].map((line) => line.map(printable)))];
  const problems = [
    ...runs.flatMap(({ folder, problems }) => problems.map((problem) => ({ folder, problem }))),
    ...unreadable,
  ].map(({ folder, problem }) => `${printable(folder)}: ${printable(problem)}`);
  return [...table, ...(problems.length > 0 ? [problems.join("\n")] : [])].join("\n\n");
}

function detailsText(run: RunDetails): string {
  const facts: [string, string][] = [
    ["stages", `${stagesText(run)}, ${run.state}${run.holder === null ? "" : `: ${holderText(run)}`}`],
    ["begun", run.createdAt ?? "-"],
    ["last sign", `${run.lastSign}, ${ago(run.lastSign)}`],
    ...makersText(run.madeBy).map((text): [string, string] => ["made by", text]),
    ["model", run.model ?? "-"],
    ...run.rewards.map((reward): [string, string] => ["reward", reward]),
  ];
  const sections = [
    run.folder,
    facts.map(([name, text]) => `${name.padEnd(9)}  ${printable(text)}`).join("\n"),
    "A resume may change device, threads, batch sizes, recording and evaluation (marked in docs/config.md); on another\n" +
      "libtorch or processor it computes other bits. The reward and all that decides results stay.",
    run.config === null ? undefined : configText(run.config),
    run.metrics === null ? undefined : `metrics of stage ${run.metrics.stage}\n${metricsText(run.metrics)}`,
    evaluationsText(run),
    run.files.length === 0 ? undefined : `files\n${run.files.map((file) => `  ${printable(file)}`).join("\n")}`,
    run.problems.length === 0 ? undefined : run.problems.map((problem) => `problem: ${printable(problem)}`).join("\n"),
  ];
  return sections.filter((section) => section !== undefined).join("\n\n");
}

function configText({ preset, differences }: ConfigBeside): string {
  const base = preset === null ? "the defaults" : `the preset ${preset}`;
  if (differences.length === 0) return `config: ${base}`;
  return `config, beside ${base}\n${differencesText(differences)}`;
}

const differencesText = (differences: readonly Difference[]): string =>
  differences
    .map(
      ({ key, before, after }) =>
        `  ${printable(key)}: ${printable(show(before, 60))} -> ${printable(show(after, 60))}`,
    )
    .join("\n");

/** A line for each number; nested ones come last, as a.b. */
function metricsText(metrics: StageMetrics): string {
  const numbers = numbersOf(metrics).filter(([name]) => name !== "stage");
  const sorted = [
    ...numbers.filter(([name]) => !name.includes(".")),
    ...numbers.filter(([name]) => name.includes(".")),
  ];
  const width = Math.max(...sorted.map(([name]) => name.length));
  return sorted.map(([name, value]) => `  ${printable(name).padEnd(width)}  ${number(value)}`).join("\n");
}

function numbersOf(values: object, prefix = ""): [name: string, value: number][] {
  return Object.entries(values).flatMap(([name, value]: [string, unknown]): [string, number][] => {
    if (typeof value === "number") return [[`${prefix}${name}`, value]];
    return typeof value === "object" && value !== null ? numbersOf(value, `${prefix}${name}.`) : [];
  });
}

function evaluationsText({ evaluations }: RunDetails): string | undefined {
  const names = Object.keys(evaluations);
  if (names.length === 0) return undefined;
  const [first, last] = [names[0]!, names.at(-1)!];
  const others = names.slice(1, -1);
  const shown = Object.fromEntries([first, last].map((name) => [name, evaluations[name]!]));
  const rest = others.length === 0 ? "" : `also evaluated: ${others.join(", ")}\n`;
  return `${evaluationTable(shown)}${rest}`.trimEnd();
}

function comparisonText({ runs, config }: RunComparison): string {
  const [a, b] = runs;
  const results = [
    ["", a.folder, b.folder],
    ["stages", ...runs.map(stagesText)],
    ["reward of the last stage", ...runs.map(({ reward }) => number(reward))],
    ["alignment", ...runs.map(({ alignment }) => percent(alignment?.training))],
    ["alignment, held-out", ...runs.map(({ alignment }) => percent(alignment?.heldOut))],
    ["reward queries", ...runs.map(({ metrics }) => number(metrics?.cost?.queries))],
    ["denoiser passes", ...runs.map(({ metrics }) => number(metrics?.cost && passesOf(metrics.cost)))],
    ["seconds", ...runs.map(({ metrics }) => number(metrics?.cost?.seconds))],
    ["made by", ...runs.map(({ madeBy }) => (madeBy.length === 0 ? "-" : makerText(madeBy.at(-1)!)))],
  ];
  const evaluated = runs.map((run): [string, Evaluation | undefined] => [
    printable(run.folder),
    Object.values(run.evaluations).at(-1),
  ]);
  const both = evaluated.filter((pair): pair is [string, Evaluation] => pair[1] !== undefined);
  const problems = runs.flatMap((run) => run.problems.map((problem) => `problem: ${printable(problem)}`));
  return [
    config.length === 0 ? "config: the same" : `config\n${differencesText(config)}`,
    columns(results.map((line) => line.map(printable))),
    ...(both.length === 2 && a.folder !== b.folder ? [evaluationTable(Object.fromEntries(both)).trimEnd()] : []),
    ...(problems.length > 0 ? [problems.join("\n")] : []),
  ].join("\n\n");
}

const stagesText = ({ finishedStages, plannedStages }: RunSummary): string =>
  `${finishedStages} of ${plannedStages ?? "?"}`;

const holderText = ({ holder }: RunSummary): string => `process ${holder?.pid} on ${holder?.host}`;

const makerText = ({ b2, libtorch, processor, threads, device }: MadeBy): string =>
  `b2 ${b2}, libtorch ${libtorch}, ${processor}, ${threads} ${threads === 1 ? "thread" : "threads"}, ${device}`;

function makersText(makers: readonly MadeBy[]): string[] {
  if (makers.length === 0) return ["unknown (begun by an earlier version)"];
  if (makers.length === 1) return [makerText(makers[0]!)];
  return makers.map((maker) => `${makerText(maker)}, from stage ${maker.fromStage}`);
}

const number = (value: number | null | undefined): string =>
  value === null || value === undefined ? "-" : String(Number.isInteger(value) ? value : Number(value.toPrecision(4)));

const percent = (share: number | null | undefined): string =>
  share === null || share === undefined ? "-" : `${(100 * share).toFixed(1)}%`;

/** How long ago a time was, in its largest unit. */
function ago(time: string): string {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  const units = [
    ["d", 86_400],
    ["h", 3600],
    ["min", 60],
  ] as const;
  const [unit, length] = units.find(([, length]) => seconds >= length) ?? ["s", 1];
  return `${Math.floor(seconds / length)} ${unit} ago`;
}
