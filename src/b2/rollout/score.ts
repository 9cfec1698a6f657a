/**
 * From final latents to rewards: images are decoded and passed to the rewards as tensors, one batch at a time. Some are
 * also saved as PNG files for people to look at.
 */
import { ifProcessEnds } from "../../base/process-end.js";
import { alone, batchShareOf, type WithWorkers } from "../../distributed/index.js";
import { encodePng, writePng } from "../../images/index.js";
import type { ImageKey, PromptMetadata, RewardSet } from "../../rewards/index.js";
import { tidy, type Tensor } from "../../torch/index.js";
import type { Policy } from "../policy/policy.js";
import type { BranchBatch, SampleKey, ScoredBatch } from "../records.js";
import { decodeInBatches } from "./decode.js";
import { completeRewards, shareOutcomes } from "./outcomes.js";

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
  /** Called after every batch with the scores so far. */
  readonly scored?: ((scores: KeptScores) => void) | undefined;
}

/** The images of a root compete with each other. */
export const imageKey = (stage: number, { root, branch }: SampleKey): ImageKey => ({
  group: `stage-${padded(stage)}/root-${padded(root)}`,
  index: branch,
});

const padded = (n: number): string => String(n).padStart(4, "0");

/**
 * Scores every branch. Several workers share the batches, and all get all scores; rank 0 writes the pictures.
 *
 * @throws RewardError when a reward does not return one finite number per image; what all rewards have said of the
 *   images before it goes to `keep`
 */
export async function scoreBranches(
  policy: Policy,
  batch: BranchBatch,
  rewards: RewardSet,
  { batchSize, imageFile, metadata, kept, keep, scored }: ScoreOptions,
  { progress, signal, workers = alone }: WithWorkers,
): Promise<BranchScores> {
  const { keys, stage } = batch;
  const scores = new PartialScores(rewards.labels, kept);
  const known = scores.count;
  const own = batchShareOf(keys.length - known, batchSize, workers);
  const first = known + own.start;
  const task = progress.task("scoring", known + own.length, "images");
  task.advance(known);
  const pictures: Picture[] = [];
  const keepScores = (): undefined => {
    if (scores.count > 0 && rewards.isFinal) keep?.(scores.soFar);
  };
  const scoreOwn = async (): Promise<OwnScores> => {
    const done = ifProcessEnds(keepScores);
    // The last latents of each trajectory that is not scored yet: views.
    const latents = tidy(() => batch.latents.select(1, -1).narrow(0, first, own.length));
    try {
      const decoding = { batchSize, signal, progress, ahead: rewards.ahead };
      await decodeInBatches(policy, latents, decoding, async (images, from) => {
        const start = first + from;
        const some = keys.slice(start, start + images.size(0));
        if (workers.rank === 0) saveImages(images, (row) => imageFile(start + row));
        else pictures.push(...encodeImages(images, start, imageFile));
        const prompts = some.map(({ prompt }) => prompt);
        const answer = await rewards.score(images, prompts, {
          keys: some.map((key) => imageKey(stage, key)),
          metadata: prompts.map((prompt) => metadata?.get(prompt) ?? {}),
          ...(signal && { signal }),
        });
        // Those of another worker's images are in front of the first of these.
        scores.add(start - own.start, answer);
        task.advance(some.length);
        if (rewards.isFinal) scored?.(scores.soFar);
      });
      return { scores: scores.soFar, pictures };
    } finally {
      done();
      latents.dispose();
      task.done();
    }
  };
  let all: OwnScores[];
  try {
    all = await shareOutcomes(workers, scoreOwn);
  } catch (error) {
    keepScores();
    throw error;
  }
  for (const [sample, png] of workers.rank === 0 ? all.flatMap(({ pictures }) => pictures) : []) {
    writePng(imageFile(sample)!, Buffer.from(png, "base64"));
  }
  await completeRewards(rewards, workers);
  const { parts, rewardSeconds } = joinScores(
    all.map(({ scores }) => scores),
    known,
  );
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

/** The PNG of a sample's image, as base64. */
type Picture = readonly [sample: number, png: string];

/** What a worker tells the others when it has scored its images. */
interface OwnScores {
  readonly scores: KeptScores;
  readonly pictures: readonly Picture[];
}

/** The scores of all images, in their order. @param known how many were known before, to all workers */
function joinScores(all: readonly KeptScores[], known: number): KeptScores {
  const labels = Object.keys(all[0]!.parts);
  // What was known before is in front of each worker's own.
  const partsOf = (label: string): number[] => [
    ...all[0]!.parts[label]!.slice(0, known),
    ...all.flatMap(({ parts }) => parts[label]!.slice(known)),
  ];
  const slowest = (label: string): number => Math.max(...all.map(({ rewardSeconds }) => rewardSeconds[label]!));
  return {
    parts: Object.fromEntries(labels.map((label) => [label, partsOf(label)])),
    rewardSeconds: Object.fromEntries(labels.map((label) => [label, slowest(label)])),
  };
}

const encodeImages = (images: Tensor, start: number, imageFile: ScoreOptions["imageFile"]): Picture[] =>
  Array.from({ length: images.size(0) }, (_, row) => row)
    .filter((row) => imageFile(start + row) !== undefined)
    .map((row) => [start + row, Buffer.from(tidy(() => encodePng(images.select(0, row)))).toString("base64")] as const);

function saveImages(images: Tensor, fileOf: (row: number) => string | undefined): void {
  for (let row = 0; row < images.size(0); row++) {
    const file = fileOf(row);
    if (file !== undefined) tidy(() => writePng(file, images.select(0, row)));
  }
}
