/** The progress of a comparison: a table of settings and seeds that is drawn anew on a terminal, plain lines elsewhere. */
import type { RunState } from "../compare/execute.js";
import type { PlannedRun } from "../compare/plan.js";
import { RunReader } from "../runs/reader.js";
import { duration, short } from "./progress.js";
import { columns } from "./table.js";
import { printError } from "./terminal.js";

const REDRAW_MS = 1000;
const LINE_MS = 60_000;

const MARKS: Readonly<Record<Exclude<RunState, "running">, string>> = { waiting: "·", finished: "✓", failed: "✗" };

/** Shows where the runs of a comparison stand until it is closed. */
export class CompareProgress {
  readonly #runs: readonly PlannedRun[];
  readonly #states: Map<PlannedRun, RunState>;
  readonly #jobs: number;
  readonly #out = process.stderr;
  readonly #timer: NodeJS.Timeout;
  /** Stages that were finished before, and since when. */
  readonly #start: number;
  readonly #startStages: number;
  #drawnLines = 0;

  constructor(
    runs: readonly PlannedRun[],
    { jobs, finished }: { jobs: number; finished: (run: PlannedRun) => boolean },
  ) {
    this.#runs = runs;
    this.#jobs = jobs;
    this.#states = new Map(runs.map((run) => [run, finished(run) ? "finished" : "waiting"]));
    this.#start = performance.now();
    this.#startStages = this.#stages();
    this.#timer = setInterval(() => this.#draw(), this.#out.isTTY ? REDRAW_MS : LINE_MS);
    this.#draw();
  }

  /** Reports that a run has begun or ended. */
  readonly change = (run: PlannedRun, state: RunState): void => {
    this.#states.set(run, state);
    if (this.#out.isTTY) this.#draw();
    else printError(`${run.setting} seed ${run.seed}: ${state}\n`);
  };

  /** Leaves the last table on the terminal. */
  close(): void {
    clearInterval(this.#timer);
    this.#draw();
  }

  #draw(): void {
    if (!this.#out.isTTY) {
      printError(`${this.#summary()}\n`);
      return;
    }
    const text = `${this.#table()}\n${this.#summary()}\n`;
    const up = this.#drawnLines === 0 ? "" : `\u001b[${this.#drawnLines}A\u001b[J`;
    this.#out.write(up + text);
    this.#drawnLines = text.split("\n").length - 1;
  }

  /** A line per setting and a column per seed; the last reward is the mean over the seeds that have one. */
  #table(): string {
    const seeds = [...new Set(this.#runs.map(({ seed }) => seed))];
    const settings = [...new Set(this.#runs.map(({ setting }) => setting))];
    const lines = settings.map((setting) => {
      const own = this.#runs.filter((run) => run.setting === setting);
      const rewards = own.map(lastReward).filter((reward) => reward !== undefined);
      const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
      const cells = seeds.map((seed) => this.#cell(own.find((run) => run.seed === seed)!));
      return [setting, ...cells, rewards.length === 0 ? "" : short(mean)];
    });
    return columns([["setting", ...seeds.map((seed) => `seed ${seed}`), "last reward"], ...lines]);
  }

  #cell(run: PlannedRun): string {
    const state = this.#states.get(run)!;
    if (state !== "running") return MARKS[state];
    return `${stagesOf(run)}/${run.config.stages}`;
  }

  #summary(): string {
    const states = [...this.#states.values()];
    const count = (state: RunState): number => states.filter((one) => one === state).length;
    const failed = count("failed");
    const done = this.#stages();
    const total = this.#runs.reduce((sum, { config }) => sum + config.stages, 0);
    const rate = (done - this.#startStages) / (performance.now() - this.#start);
    const left = rate > 0 ? `, about ${duration((total - done) / rate / 1000)} left` : "";
    return (
      `${count("finished")} of ${states.length} runs finished, ${count("running")} of ${this.#jobs} at work` +
      `${failed > 0 ? `, ${failed} failed` : ""}, ${done} of ${total} stages${left}`
    );
  }

  #stages(): number {
    return this.#runs.reduce((sum, run) => sum + stagesOf(run), 0);
  }
}

function stagesOf({ folder }: PlannedRun): number {
  return RunReader.exists(folder) ? new RunReader(folder).nextStage() : 0;
}

function lastReward({ folder }: PlannedRun): number | undefined {
  if (!RunReader.exists(folder)) return undefined;
  const reader = new RunReader(folder);
  const last = reader.finishedStages().at(-1);
  return last === undefined ? undefined : reader.stageMetrics(last).rewardMean;
}
