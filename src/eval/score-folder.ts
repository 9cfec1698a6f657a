/** Scores a folder of images with the rewards of a config: what a run would give them. */
import { join } from "node:path";
import { chunks } from "../base/chunks.js";
import { InputError } from "../base/errors.js";
import { groupsOf } from "../base/groups.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { readImage } from "../images/index.js";
import { RewardError, type ImageKey, type RewardSet, type Scores, type ScoringCall } from "../rewards/index.js";
import { stack, yieldToEventLoop, type Device, type Tensor } from "../torch/index.js";
import type { FolderImage } from "./image-folder.js";

/** An image with what the rewards say of it. */
export interface ScoredImage extends FolderImage {
  /** Each reward by its label, unweighted. */
  readonly rewards: Readonly<Record<string, number>>;
  /** The weighted sum of those that train, which a run maximises. */
  readonly total: number;
}

/** The scores of a folder. */
export interface FolderScores {
  /** In the order that was given. */
  readonly images: readonly ScoredImage[];
  /** Wall time of each reward, in seconds. */
  readonly seconds: Readonly<Record<string, number>>;
  /** The labels of those that a run would not train on. */
  readonly judges: readonly string[];
}

/** An image of which the size is known, which means that it can be read. */
export interface SizedImage extends FolderImage {
  readonly height: number;
  readonly width: number;
}

/**
 * Reads every image once and forgets it, so that a damaged one shows before rewards are loaded and images scored.
 *
 * @throws InputError naming the images that cannot be read; Interrupted when the signal aborts
 */
export async function checkImages(
  folder: string,
  images: readonly FolderImage[],
  { progress, signal }: RunContext,
): Promise<SizedImage[]> {
  const sized: SizedImage[] = [];
  const damaged: InputError[] = [];
  const task = progress.task("checking", images.length, "images");
  try {
    for (const image of images) {
      checkInterrupted(signal);
      try {
        const read = await readImage(join(folder, image.name));
        sized.push({ ...image, height: read.size(1), width: read.size(2) });
        read.dispose();
      } catch (error) {
        if (!(error instanceof InputError)) throw error;
        damaged.push(error);
      }
      task.advance(1);
    }
  } finally {
    task.done();
  }
  if (damaged.length > 0) throw new InputError(damaged.map(({ message }) => message).join("\n"));
  return sized;
}

export interface ScoreFolderOptions {
  readonly device: Device;
  /** Images at once; those of a batch have one size. */
  readonly batchSize: number;
}

/**
 * Scores images.
 *
 * @throws RewardError of a reward that fails, naming the files; Interrupted when the signal aborts
 */
export async function scoreFolder(
  rewards: RewardSet,
  folder: string,
  images: readonly SizedImage[],
  { device, batchSize }: ScoreFolderOptions,
  { progress, signal }: RunContext,
): Promise<FolderScores> {
  const keys = keysOf(images);
  const scored: ScoredImage[] = [];
  const seconds: Record<string, number> = {};
  const task = progress.task("scoring", images.length, "images");
  try {
    for (const rows of batchesOf(images, batchSize)) {
      checkInterrupted(signal);
      const batch = rows.map((row) => images[row]!);
      const call = {
        keys: rows.map((row) => keys[row]!),
        metadata: batch.map(({ metadata }) => metadata),
        ...(signal && { signal }),
      };
      const scores = await scoreBatch(rewards, folder, batch, call, device);
      const { parts, total } = scores;
      for (const [i, row] of rows.entries()) {
        const own = Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values[i]!]));
        const { name, prompt, metadata } = batch[i]!;
        scored[row] = { name, prompt, metadata, rewards: own, total: total[i]! };
      }
      for (const [label, taken] of Object.entries(scores.seconds)) seconds[label] = (seconds[label] ?? 0) + taken;
      task.advance(rows.length);
      await yieldToEventLoop();
    }
  } finally {
    task.done();
  }
  await rewards.complete({ judges: true });
  return { images: scored, seconds, judges: rewards.judges };
}

async function scoreBatch(
  rewards: RewardSet,
  folder: string,
  batch: readonly SizedImage[],
  call: ScoringCall,
  device: Device,
): Promise<Scores> {
  const files = batch.map(({ name }) => join(folder, name));
  const images = await loadBatch(files, device);
  try {
    const prompts = batch.map(({ prompt }) => prompt);
    return await rewards.score(images, prompts, { ...call, judges: true });
  } catch (error) {
    if (!(error instanceof RewardError)) throw error;
    const where = files.length === 1 ? files[0]! : `${files.length} images, ${files[0]!} to ${files.at(-1)!}`;
    throw new RewardError(`${error.message} (scoring ${where})`, { cause: error });
  } finally {
    images.dispose();
  }
}

/** Images of one size as [B, 3, H, W] in 0..1. */
async function loadBatch(files: readonly string[], device: Device): Promise<Tensor> {
  const read: Tensor[] = [];
  const own: Tensor[] = [];
  try {
    for (const file of files) read.push(await readImage(file));
    const together = stack(read);
    if (device === "cpu") return together;
    own.push(together);
    return together.to({ device });
  } finally {
    for (const tensor of [...read, ...own]) tensor.dispose();
  }
}

/** The rows of each batch: images of one size, in their order. */
function batchesOf(images: readonly SizedImage[], batchSize: number): number[][] {
  const rows = images.map((_, row) => row);
  const bySize = groupsOf(rows, (row) => `${images[row]!.height}x${images[row]!.width}`);
  return [...bySize.values()].flatMap((own) =>
    [...chunks(own.length, batchSize)].map(([start, length]) => own.slice(start, start + length)),
  );
}

/** The images of a prompt compete with each other. */
function keysOf(images: readonly FolderImage[]): ImageKey[] {
  const rows = images.map((_, row) => row);
  const byPrompt = groupsOf(rows, (row) => images[row]!.prompt);
  const keys: ImageKey[] = [];
  for (const [i, own] of [...byPrompt.values()].entries()) {
    const group = `prompt-${String(i).padStart(4, "0")}`;
    own.forEach((row, index) => (keys[row] = { group, index }));
  }
  return keys;
}
