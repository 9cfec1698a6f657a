/**
 * Whether a version is as fast as another: the same small trainings by both, turn by turn, and new / old.
 *
 *     npm run build && node dist/bench/versions.js --old <bin/b2.js> --new <bin/b2.js> [--rounds 7] [--only word]
 *
 * Each training is a process with one thread, and all seconds are its processor time, by phases too (b2-process.ts). A
 * round starts both versions and lets them run in turns of 50 milliseconds, the other one stopped, so that both meet
 * the same machine, as busy and as hot, at the same stage. `sample`, `score` and `train` are what stage.json has of every
 * stage but the first, which warms up: a ratio for each stage of each round. `train` is by the pairs trained, which differ
 * where rounding moves a reward over a threshold. `process` is the whole process, a ratio for each round, loading
 * included. Printed are the median and the quartiles of the ratios. A version beside itself shows how far from 1 noise
 * goes. Not for Windows, which stops no processes.
 */
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  configArguments,
  describeB2,
  embedded,
  layered,
  runB2,
  stageMetrics,
  trainingOnly,
  type FormerConfig,
} from "./b2-process.js";
import { narrow } from "./narrow.js";

const stages = 6;
/** Milliseconds. */
const turn = 50;

interface Training {
  readonly name: string;
  readonly config: FormerConfig;
}

const trainings: readonly Training[] = [
  { name: "embedded", config: embedded },
  { name: "narrow SDXL", config: narrow("sdxl", 12) },
];

const phases = ["sample", "score", "train"] as const;

/** Seconds of one training by one version. */
interface Timed extends Record<(typeof phases)[number], readonly number[]> {
  readonly process: readonly number[];
}

async function timed(b2: string, folder: string, { config }: Training, turns: Turns): Promise<Timed> {
  const given = configArguments(folder, layered(trainingOnly, { stages }, config));
  const { processorSeconds } = await runB2(b2, ["run", folder, ...given], {
    cwd: scratch,
    onStart: (child) => turns.join(child),
  });
  const metrics = Array.from({ length: stages - 1 }, (_, i) => stageMetrics(folder, i + 1));
  rmSync(folder, { recursive: true });
  return {
    sample: metrics.map(({ secondsSample }) => secondsSample!),
    score: metrics.map(({ secondsScore }) => secondsScore!),
    train: metrics.map(({ secondsTrain, pairs }) => secondsTrain! / pairs!),
    process: [processorSeconds],
  };
}

/** The value that a share of the sorted numbers lies below, between neighbours where it is between two. */
function quantile(numbers: readonly number[], share: number): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at - Math.floor(at));
}

/** Lets one of two processes run at a time, until both have ended. */
class Turns {
  readonly #running = new Set<ChildProcess>();
  #timer: NodeJS.Timeout | undefined;

  /** The first of the set runs; the others are stopped. */
  #next(): void {
    const [current, ...others] = this.#running;
    for (const other of others) other.kill("SIGSTOP");
    current?.kill("SIGCONT");
  }

  join(child: ChildProcess): void {
    this.#running.add(child);
    this.#timer ??= setInterval(() => {
      const [current] = this.#running;
      this.#running.delete(current!);
      this.#running.add(current!);
      this.#next();
    }, turn);
    child.on("exit", () => {
      this.#running.delete(child);
      this.#next();
      if (this.#running.size === 0) clearInterval(this.#timer);
    });
  }
}

async function compare(training: Training, old: string, now: string, rounds: number): Promise<void> {
  const timings: { readonly before: Timed; readonly after: Timed }[] = [];
  for (let round = 0; round < rounds; round++) {
    const turns = new Turns();
    const [before, after] = await Promise.all([
      timed(old, join(scratch, "old"), training, turns),
      timed(now, join(scratch, "new"), training, turns),
    ]);
    timings.push({ before, after });
  }
  console.log(`\n${training.name}, ${rounds} rounds\n          new / old  quartiles       old takes`);
  for (const part of [...phases, "process"] as const) {
    const ratios = timings.flatMap(({ before, after }) => after[part].map((value, i) => value / before[part][i]!));
    const [lower, median, upper] = [0.25, 0.5, 0.75].map((share) => quantile(ratios, share).toFixed(3));
    const seconds = timings.flatMap(({ before }) => before[part]);
    const takes = quantile(seconds, 0.5);
    const inWords = part === "train" ? `${(takes * 1000).toFixed(2)} ms a pair` : `${takes.toFixed(2)} s`;
    console.log(`${part.padEnd(9)} ${median!.padStart(9)}  ${lower} to ${upper}  ${inWords}`);
  }
}

const { values } = parseArgs({
  options: {
    old: { type: "string" },
    new: { type: "string" },
    rounds: { type: "string", default: "7" },
    only: { type: "string", default: "" },
  },
});
const { old, new: now } = values;
if (old === undefined || now === undefined) throw new Error("Expected --old and --new, each a checkout's bin/b2.js");

const scratch = mkdtempSync(join(tmpdir(), "b2-versions-"));
try {
  console.log(`old: ${describeB2(old)}\nnew: ${describeB2(now)}`);
  for (const training of trainings.filter(({ name }) => name.includes(values.only))) {
    await compare(training, old, now, Number(values.rounds));
  }
} finally {
  rmSync(scratch, { recursive: true });
}
