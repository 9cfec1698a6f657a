/** What scaling.ts asks of its workers, what they answer, and how it starts them. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Operation } from "./recording-group.js";

export const phases = ["sample", "score", "select", "train", "record"] as const;
export type Phase = (typeof phases)[number];

/** Training: what is asked of a worker. */
export interface TrainingJob {
  readonly kind: "training";
  readonly folder: string;
  readonly roots: number;
  /** One more than are timed: the first warms up. */
  readonly stages: number;
  readonly parameters: "lora" | "full";
}

/** Collectives alone: of each, so many milliseconds for each size. */
export interface CollectivesJob {
  readonly kind: "collectives";
  readonly sizes: readonly number[];
  readonly milliseconds: number;
}

/** A phase of a stage, as one worker saw it. Times in milliseconds since 1970. */
export interface TimedPhase {
  readonly start: number;
  readonly end: number;
  /** Seconds of processor time. */
  readonly processor: number;
  readonly operations: readonly Operation[];
}

/** A stage, as one worker saw it: its phases one after the other, and the wait for the others at its end. */
export interface TimedStage {
  readonly phases: Readonly<Record<Phase, TimedPhase>>;
  /** That train, among all workers. */
  readonly pairs: number;
  readonly updates: number;
}

/** What a worker prints. */
export interface TrainingTimes {
  readonly stages: readonly TimedStage[];
  /** Numbers that are trained. */
  readonly parameters: number;
  /** Bytes of the latents of one image at one step. */
  readonly latentBytes: number;
}

/** Seconds of a collective for so many bytes, the median of all tries. */
export interface CollectiveTime {
  readonly name: "broadcast" | "allGather" | "allReduce_";
  readonly bytes: number;
  readonly seconds: number;
  readonly tries: number;
}

/** The settings of scaling.ts, which the model needs too. Every root trains two of its branches, so that all stages are alike. */
export const settings = {
  sample: { steps: 10, batchSize: 6, decodeBatchSize: 6 },
  branches: 4,
  interval: { first: 8, last: 8, skipLast: 4 },
  train: { microBatch: 6, samplesPerUpdate: 12, epochs: 1 },
} as const;

export type Job = TrainingJob | CollectivesJob;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** Starts a worker of one thread. @returns what it printed last */
async function startWorker(job: Job, environment: Readonly<Record<string, string>>): Promise<unknown> {
  const program = fileURLToPath(new URL("worker.js", import.meta.url));
  const child = spawn(process.execPath, [program, JSON.stringify(job)], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, B2_THREADS: "1", ...environment },
  });
  let last = "";
  createInterface({ input: child.stdout }).on("line", (line) => (last = line));
  const [code] = (await once(child, "close")) as [number | null];
  if (code !== 0) throw new Error(`Expected a worker to finish but it ended with ${code}`);
  return JSON.parse(last);
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), "b2-scaling-"));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const ranks = (size: number): number[] => Array.from({ length: size }, (_, rank) => rank);

/** Workers that do a job together. @returns the answers of all, by rank */
async function together<T>(size: number, job: Job): Promise<T[]> {
  const port = await freePort();
  const environmentOf = (rank: number): Record<string, string> =>
    size === 1
      ? {}
      : {
          RANK: String(rank),
          LOCAL_RANK: String(rank),
          WORLD_SIZE: String(size),
          MASTER_ADDR: "127.0.0.1",
          MASTER_PORT: String(port),
        };
  return Promise.all(ranks(size).map((rank) => startWorker(job, environmentOf(rank)) as Promise<T>));
}

type Training = Omit<TrainingJob, "kind" | "folder">;

/** One training by so many workers. */
export const trainTogether = (size: number, training: Training): Promise<TrainingTimes[]> =>
  inFolder((folder) => together(size, { kind: "training", folder: join(folder, "run"), ...training }));

/** So many trainings at once, of one worker each: what the cores do when all are busy. */
export const trainBesideEachOther = (count: number, training: Training): Promise<TrainingTimes[]> =>
  inFolder((folder) =>
    Promise.all(
      ranks(count).map((each) =>
        startWorker({ kind: "training", folder: join(folder, String(each)), ...training }, {}),
      ) as Promise<TrainingTimes>[],
    ),
  );

/** Collectives of so many workers, as rank 0 times them. */
export async function timeCollectives(size: number, job: Omit<CollectivesJob, "kind">): Promise<CollectiveTime[]> {
  const [first] = await together<CollectiveTime[]>(size, { kind: "collectives", ...job });
  return first!;
}
