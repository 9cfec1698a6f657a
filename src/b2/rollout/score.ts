/**
 * From final latents to rewards: images are decoded and passed to the rewards as tensors, one batch at a time. Some are
 * also saved as PNG files for people to look at.
 */
import type { RunContext } from "../../base/progress.js";
import { writePng } from "../../images/index.js";
import type { RewardSet } from "../../rewards/index.js";
import { tidy, type Tensor } from "../../torch/index.js";
import type { Policy } from "../policy/policy.js";
import type { BranchBatch, ScoredBatch } from "../records.js";
import { decodeInBatches } from "./decode.js";

/** The rewards of a stage's images. */
export type BranchScores = Pick<ScoredBatch, "rewards" | "parts" | "rewardSeconds">;

/**
 * Scores every branch.
 *
 * @param options.imageFile where to save the image of a sample; undefined to skip it
 * @throws RewardError when a reward does not return one finite number per image
 */
export async function scoreBranches(
  policy: Policy,
  batch: BranchBatch,
  rewards: RewardSet,
  { batchSize, imageFile }: { batchSize: number; imageFile: (sample: number) => string | undefined },
  { progress, signal }: RunContext,
): Promise<BranchScores> {
  const n = batch.keys.length;
  const task = progress.task("scoring", n, "images");
  const total: number[] = [];
  const parts: Record<string, number[]> = Object.fromEntries(rewards.labels.map((label) => [label, []]));
  const rewardSeconds: Record<string, number> = {};
  // The last latents of each trajectory, a view.
  const latents = batch.latents.select(1, -1);
  try {
    await decodeInBatches(policy, latents, { batchSize, signal }, async (images, start) => {
      const rows = images.size(0);
      const prompts = batch.keys.slice(start, start + rows).map(({ prompt }) => prompt);
      const scores = await rewards.score(images, prompts);
      total.push(...scores.total);
      for (const label of rewards.labels) {
        parts[label]!.push(...scores.parts[label]!);
        rewardSeconds[label] = (rewardSeconds[label] ?? 0) + scores.seconds[label]!;
      }
      saveImages(images, (row) => imageFile(start + row));
      task.advance(rows);
    });
  } finally {
    latents.dispose();
    task.done();
  }
  return { rewards: total, parts, rewardSeconds };
}

function saveImages(images: Tensor, fileOf: (row: number) => string | undefined): void {
  for (let row = 0; row < images.size(0); row++) {
    const file = fileOf(row);
    if (file !== undefined) tidy(() => writePng(file, images.select(0, row)));
  }
}
