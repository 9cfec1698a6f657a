/**
 * A run of several workers. Rank 0 has the run folder, and alone writes it. Every other worker has a folder of its own for
 * as long as it lives, in the system's temporary folder, with what training reads of earlier stages: rewards, measured
 * intervals, replayed trajectories, and at the start the weights and the optimiser's state, which rank 0 sends.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmdirSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { dirname, join, relative, resolve } from "node:path";
import { chunks } from "../base/chunks.js";
import { InputError } from "../base/errors.js";
import { makeFolder } from "../base/files.js";
import { listOf } from "../base/show.js";
import { WorkerError, type Group } from "../distributed/index.js";
import { layout, RunWriter, stageFiles, type PartialStage, type RunReader } from "../runs/index.js";
import { empty, tensor, type Tensor } from "../torch/index.js";
import type { Config } from "./config/schema.js";
import type { BranchBatch } from "./records.js";
import type { PromptLists } from "./rollout/prompts.js";
import { stagesBefore, type FolderPlan } from "./run-plan.js";

/** What rank 0 tells the others before models are loaded. */
interface Told {
  /** The run's, on the host of rank 0. */
  readonly folder: string;
  readonly host: string;
  readonly config: Config;
  readonly lists: Omit<PromptLists, "metadata">;
  readonly metadata: readonly (readonly [string, Record<string, unknown>])[];
}

/** Rank 0's part: tells the plan. */
export async function tellPlan(workers: Group, { folder, config, lists, programReward }: FolderPlan): Promise<void> {
  if (programReward) {
    throw new InputError("Expected the rewards of a config for several workers but received a program's own reward");
  }
  const { metadata, ...rest } = lists;
  const told: Told = {
    folder: resolve(folder),
    host: hostname(),
    config,
    lists: rest,
    metadata: [...(metadata ?? [])].map(([prompt, of]) => [prompt, { ...of }]),
  };
  await workers.broadcastJson(told);
}

/** Rank 0's part where the run is finished already. */
export const tellFinished = (workers: Group): Promise<Told | null> => workers.broadcastJson<Told | null>(null);

/** What a worker other than rank 0 is told. */
export interface Heard {
  /** For a folder of its own. */
  readonly plan: FolderPlan;
  /** The run's folder; undefined where this machine does not have it. */
  readonly runFolder: string | undefined;
  /** Deletes the folder of its own. */
  readonly removeFolder: () => void;
}

/** The part of every other worker; undefined where the run is finished already. */
export async function hearPlan(workers: Group): Promise<Heard | undefined> {
  const told = await workers.broadcastJson<Told | null>(null);
  if (told === null) return undefined;
  const { config, lists, metadata } = told;
  removeAbandoned();
  const folder = mkdtempSync(join(tmpdir(), `${FOLDER}${workers.rank}-`));
  const lock = RunWriter.lock(folder);
  // The lock is released last: what a process leaves that is killed in between can still be told to be its.
  const removeFolder = (): void => {
    rmSync(folder, { recursive: true, force: true });
    lock.release();
  };
  process.prependOnceListener("exit", removeFolder);
  const plan: FolderPlan = {
    folder,
    config: {
      ...config,
      model: { ...config.model, device: deviceOf(config, workers) },
      // Here only what is replayed is read again.
      record: { ...config.record, trajectories: 0 },
    },
    lists: { ...lists, metadata: new Map(metadata) },
    programReward: false,
    mode: "new",
    changes: [],
    notes: [],
    lock,
  };
  const hasFolder = told.host === hostname() || existsSync(told.folder);
  return { plan, runFolder: hasFolder ? told.folder : undefined, removeFolder };
}

const HOUR = 3_600_000;

/** How the names of workers' own folders begin. */
const FOLDER = "b2-rank-";

/** Deletes the folders of workers on this host that were killed. */
function removeAbandoned(): void {
  for (const entry of readdirSync(tmpdir(), { withFileTypes: true })) {
    const folder = join(tmpdir(), entry.name);
    if (!entry.name.startsWith(FOLDER) || !entry.isDirectory()) continue;
    try {
      const { uid, mtimeMs } = statSync(folder);
      if (uid !== process.getuid?.()) continue;
      if (RunWriter.isAbandoned(folder)) rmSync(folder, { recursive: true, force: true });
      // Killed as it deleted its own. A folder that is new is empty until it is locked.
      else if (Date.now() - mtimeMs > HOUR && readdirSync(folder).length === 0) rmdirSync(folder);
    } catch {
      // Another worker is deleting it too.
    }
  }
}

/** Workers of one host each take a card of their own, unless the config names one. */
const deviceOf = ({ model: { device } }: Config, { localRank }: Group): string =>
  device === "cuda" ? `cuda:${localRank}` : device;

/** Gives the other workers what the next stage reads of earlier ones. */
export const shareHistory = (workers: Group, run: RunReader, config: Config): Promise<void> =>
  shareFiles(workers, run, () => historyFiles(run, config));

/** Gives the other workers the weights that were the result after a finished stage. */
export const shareResult = (workers: Group, run: RunReader, stage: number): Promise<void> =>
  shareFiles(workers, run, () => {
    const paths = (["lora", "denoiser", "ema"] as const).map((name) => run.stagePath(stage, name));
    return relativeFiles(run, paths);
  });

/** Gives the other workers files of rank 0's run folder, in the same place. @param own called by rank 0 alone */
async function shareFiles(workers: Group, { folder }: RunReader, own: () => string[]): Promise<void> {
  if (workers.size === 1) return;
  const files = workers.rank === 0 ? own() : [];
  const told = await workers.broadcastJson(files.map((file) => ({ file, bytes: statSync(join(folder, file)).size })));
  for (const { file, bytes } of told) await shareFile(workers, join(folder, file), bytes);
}

/** Files of the run that the next stage reads, relative to its folder. */
function historyFiles(run: RunReader, config: Config): string[] {
  const { folder } = run;
  const next = run.nextStage();
  const { samples, selected, metrics, updates, partial, images, sampled, sampledTensors, scores } = stageFiles;
  const unread: readonly string[] = [updates, partial, images, sampled, sampledTensors, scores];
  const last = layout.stage(folder, next - 1);
  const state = (next === 0 ? [] : readdirSync(last))
    .filter((name) => !unread.includes(name))
    .map((name) => join(last, name));
  const history = stagesBefore(next, config.advantage.historyStages).map((one) => [one, samples] as const);
  const replayed = stagesBefore(next, config.replay.stages).flatMap((one) =>
    [samples, selected, metrics].map((name) => [one, name] as const),
  );
  const earlier = [...history, ...replayed].map(([one, name]) => join(layout.stage(folder, one), name));
  return relativeFiles(run, [...state, ...earlier, layout.intervals(folder)]);
}

/** The files that are there of some paths, each once, and relative to the run's folder. */
function relativeFiles({ folder }: RunReader, paths: readonly string[]): string[] {
  const found = paths.filter((path) => existsSync(path)).flatMap(filesIn);
  return [...new Set(found)].map((file) => relative(folder, file));
}

const filesIn = (path: string): string[] =>
  statSync(path).isDirectory() ? readdirSync(path).flatMap((name) => filesIn(join(path, name))) : [path];

/** Bytes of a file that are sent at once. */
const PIECE = 2 ** 26;

async function shareFile(workers: Group, file: string, bytes: number): Promise<void> {
  const isSource = workers.rank === 0;
  if (!isSource) makeFolder(dirname(file));
  const fd = openSync(file, isSource ? "r" : "w");
  try {
    for (const [start, length] of chunks(bytes, PIECE)) {
      const buffer = new Uint8Array(length);
      if (isSource && readSync(fd, buffer, 0, length, start) !== length) {
        throw new InputError(`Expected ${bytes} bytes in ${file} but it has become shorter`);
      }
      const piece = tensor(buffer);
      await workers.broadcast(piece, 0);
      if (!isSource) writeSync(fd, piece.toTypedArray() as Uint8Array, 0, length, start);
      piece.dispose();
    }
  } finally {
    closeSync(fd);
  }
}

/** Samples of an earlier attempt at a stage, and what they have taken. */
export interface KeptSamples {
  readonly branches: BranchBatch;
  readonly partial: PartialStage;
}

/** Gives the other workers the samples that rank 0 has found in the run folder; undefined if there are none. */
export async function shareSamples(workers: Group, kept: KeptSamples | undefined): Promise<KeptSamples | undefined> {
  if (workers.size === 1) return kept;
  const own = kept && {
    ...kept,
    branches: { ...kept.branches, latents: kept.branches.latents.shape, logProbs: kept.branches.logProbs?.shape },
  };
  const told = await workers.broadcastJson(own ?? null);
  if (told === null) return undefined;
  const { latents, logProbs, ...rest } = told.branches;
  const share = async (mine: Tensor | undefined, shape: readonly number[]): Promise<Tensor> => {
    const shared = mine ?? empty(shape);
    await workers.broadcast(shared, 0);
    return shared;
  };
  const branches: BranchBatch = {
    ...rest,
    latents: await share(kept?.branches.latents, latents),
    logProbs: logProbs && (await share(kept?.branches.logProbs, logProbs)),
  };
  return { branches, partial: told.partial };
}

/** @throws WorkerError naming the ranks whose weights are not those of rank 0 */
export async function expectSameWeights(
  workers: Group,
  parameters: ReadonlyMap<string, Tensor>,
  stage: number,
): Promise<void> {
  if (workers.size === 1) return;
  const hash = createHash("sha256");
  for (const parameter of parameters.values()) {
    const { buffer, byteOffset, byteLength } = parameter.toTypedArray();
    hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  const all = await workers.allGatherJson(hash.digest("hex"));
  const others = all.flatMap((one, rank) => (one === all[0] ? [] : [`rank ${rank}`]));
  if (others.length === 0) return;
  throw new WorkerError(
    `Expected the same weights on all ${workers.size} workers after the update of stage ${stage} but those of ` +
      `${listOf(others, "and")} are not those of rank 0; is their libtorch, processor or card another one?`,
  );
}
