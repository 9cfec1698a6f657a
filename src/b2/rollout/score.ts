/**
 * From final latents to rewards: images are decoded and passed to the rewards as tensors, one batch at a time. Some are
 * also saved as PNG files for people to look at.
 */
import { ifProcessEnds } from "../../base/process-end.js";
import type { RunContext } from "../../base/progress.js";
import { writePng } from "../../images/index.js";
import type { ImageKey, PromptMetadata, RewardSet } from "../../rewards/index.js";
import { tidy, type Tensor } from "../../torch/index.js";
import type { Policy } from "../policy/policy.js";
import type { BranchBatch, SampleKey, ScoredBatch } from "../records.js";
import { decodeInBatches } from "./decode.js";

/** The rewards of a stage's images. */
export type BranchScores = Pick<ScoredBatch, "rewards" | "parts" | "rewardSeconds">;

/** What the rewards have said of a stage's first images, before one of them failed. */
export type KeptScores = Pick<ScoredBatch, "parts" | "rewardSeconds">;

export interface ScoreOptions {
  readonly batchSize: number;
  /** Where to save the image of a sample; undefined to skip it. */
  readonly imageFile: (sample: number) => string | undefined;
  /** What is known of each prompt besides its text. */
  readonly metadata?: ReadonlyMap<string, PromptMetadata> | undefined;
  /** Scores of an earlier attempt, of the first images: these are not decoded again. */
  readonly kept?: KeptScores | undefined;
  /** Called with the scores so far where scoring fails. */
  readonly keep?: ((scores: KeptScores) => void) | undefined;
}

/** The images of a root compete with each other. */
export const imageKey = (stage: number, { root, branch }: SampleKey): ImageKey => ({
  group: `stage-${padded(stage)}/root-${padded(root)}`,
  index: branch,
});

const padded = (n: number): string => String(n).padStart(4, "0");

/** Batches that wait for their rewards while the next one is decoded, where rewards wait for servers. */
const AHEAD = 1;

/**
 * Scores every branch.
 *
 * @throws RewardError when a reward does not return one finite number per image; what all rewards have said of the
 *   images before it goes to `keep`
 */
export async function scoreBranches(
  policy: Policy,
  batch: BranchBatch,
  rewards: RewardSet,
  { batchSize, imageFile, metadata, kept, keep }: ScoreOptions,
  { progress, signal }: RunContext,
): Promise<BranchScores> {
  const { keys, stage } = batch;
  const scores = new PartialScores(rewards.labels, kept);
  const known = scores.count;
  const task = progress.task("scoring", keys.length, "images");
  task.advance(known);
  const keepScores = (): undefined => {
    if (scores.count > 0) keep?.(scores.soFar);
  };
  const done = ifProcessEnds(keepScores);
  // The last latents of each trajectory that is not scored yet: views.
  const latents = tidy(() => batch.latents.select(1, -1).narrow(0, known, keys.length - known));
  try {
    const decoding = { batchSize, signal, progress, ahead: rewards.concurrent ? AHEAD : 0 };
    await decodeInBatches(policy, latents, decoding, async (images, from) => {
      const start = known + from;
      const own = keys.slice(start, start + images.size(0));
      saveImages(images, (row) => imageFile(start + row));
      const prompts = own.map(({ prompt }) => prompt);
      const scored = await rewards.score(images, prompts, {
        keys: own.map((key) => imageKey(stage, key)),
        metadata: prompts.map((prompt) => metadata?.get(prompt) ?? {}),
        ...(signal && { signal }),
      });
      scores.add(start, scored);
      task.advance(own.length);
    });
  } catch (error) {
    keepScores();
    throw error;
  } finally {
    done();
    latents.dispose();
    task.done();
  }
  await rewards.complete();
  const { parts, rewardSeconds } = scores.soFar;
  return { rewards: rewards.weightedSum(parts, keys.length), parts, rewardSeconds };
}

/** Scores of the first images of a stage. Batches may come in any order; what counts is how far all are there. */
class PartialScores {
  readonly #labels: readonly string[];
  readonly #parts: Record<string, number[]>;
  readonly #seconds: Record<string, number>;
  /** Batches that came before one in front of them, by their first image. */
  readonly #waiting = new Map<number, Readonly<Record<string, readonly number[]>>>();

  constructor(labels: readonly string[], kept: KeptScores | undefined) {
    this.#labels = labels;
    this.#parts = Object.fromEntries(labels.map((label) => [label, [...(kept?.parts[label] ?? [])]]));
    this.#seconds = Object.fromEntries(labels.map((label) => [label, kept?.rewardSeconds[label] ?? 0]));
  }

  /** How many of the first images have all their scores. */
  get count(): number {
    return this.#parts[this.#labels[0]!]!.length;
  }

  get soFar(): KeptScores {
    return { parts: this.#parts, rewardSeconds: this.#seconds };
  }

  add(
    start: number,
    { parts, seconds }: Pick<KeptScores, "parts"> & { readonly seconds: Readonly<Record<string, number>> },
  ): void {
    for (const label of this.#labels) this.#seconds[label]! += seconds[label]!;
    this.#waiting.set(start, parts);
    for (let next = this.#waiting.get(this.count); next !== undefined; next = this.#waiting.get(this.count)) {
      this.#waiting.delete(this.count);
      for (const label of this.#labels) this.#parts[label]!.push(...next[label]!);
    }
  }
}

function saveImages(images: Tensor, fileOf: (row: number) => string | undefined): void {
  for (let row = 0; row < images.size(0); row++) {
    const file = fileOf(row);
    if (file !== undefined) tidy(() => writePng(file, images.select(0, row)));
  }
}
