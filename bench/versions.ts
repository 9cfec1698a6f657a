/**
 * Whether a version is as fast as another: the same small trainings by both, turn by turn, and new / old.
 *
 *     npm run build && node dist/bench/versions.js --old <bin/b2.js> --new <bin/b2.js> [--rounds 7] [--only word]
 *
 * Each training is a process with one thread, and all seconds are its processor time, by phases too (b2-process.ts). A
 * round runs both versions, and the next one in the other order, so that a machine that grows busy or slow does so for
 * both. `sample`, `score` and `train` are what stage.json has of every stage but the first, which warms up: a ratio for
 * each stage of each round. `train` is by the pairs trained, which differ where rounding moves a reward over a threshold.
 * `process` is the whole process, a ratio for each round, loading included. Printed are the median and the quartiles of
 * the ratios, and the ratio of the bests: of each stage the least that it took in any round, which other work on the
 * machine can only raise. A version beside itself shows how far from 1 noise goes.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  configArguments,
  describeB2,
  layered,
  runB2,
  stageMetrics,
  trainingOnly,
  type FormerConfig,
} from "./b2-process.js";
import { narrow } from "./narrow.js";

const stages = 6;

interface Training {
  readonly name: string;
  readonly preset?: string;
  readonly config: FormerConfig;
}

const trainings: readonly Training[] = [
  { name: "demo", preset: "demo", config: {} },
  { name: "narrow SDXL", config: narrow("sdxl", 12) },
];

const phases = ["sample", "score", "train"] as const;

/** Seconds of one training by one version. */
interface Timed extends Record<(typeof phases)[number], readonly number[]> {
  readonly process: readonly number[];
}

async function timed(b2: string, folder: string, { config, preset }: Training): Promise<Timed> {
  const given = configArguments(folder, layered(trainingOnly, { stages }, config), preset);
  const { processorSeconds } = await runB2(b2, ["run", folder, ...given], { cwd: scratch });
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

/** Of each stage the least that it took in any round, added up. */
function best(rounds: readonly (readonly number[])[]): number {
  return rounds[0]!.reduce((sum, _, stage) => sum + Math.min(...rounds.map((seconds) => seconds[stage]!)), 0);
}

async function compare(training: Training, old: string, now: string, rounds: number): Promise<void> {
  const timings: { readonly before: Timed; readonly after: Timed }[] = [];
  for (let round = 0; round < rounds; round++) {
    const run = (b2: string): Promise<Timed> => timed(b2, join(scratch, "run"), training);
    const oldFirst = round % 2 === 0;
    const first = await run(oldFirst ? old : now);
    const second = await run(oldFirst ? now : old);
    timings.push(oldFirst ? { before: first, after: second } : { before: second, after: first });
  }
  console.log(`\n${training.name}, ${rounds} rounds\n          new / old  quartiles       bests  old takes`);
  for (const part of [...phases, "process"] as const) {
    const ratios = timings.flatMap(({ before, after }) => after[part].map((value, i) => value / before[part][i]!));
    const [lower, median, upper] = [0.25, 0.5, 0.75].map((share) => quantile(ratios, share).toFixed(3));
    const bests = best(timings.map(({ after }) => after[part])) / best(timings.map(({ before }) => before[part]));
    const takes = quantile(
      timings.flatMap(({ before }) => before[part]),
      0.5,
    );
    const inWords = part === "train" ? `${(takes * 1000).toFixed(2)} ms a pair` : `${takes.toFixed(2)} s`;
    console.log(`${part.padEnd(9)} ${median!.padStart(9)}  ${lower} to ${upper}  ${bests.toFixed(3)}  ${inWords}`);
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
