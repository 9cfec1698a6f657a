/**
 * From final latents to rewards: images are decoded and handed to the reward as tensors, a few at a time; PNG files
 * are written on the side, for those who want to look.
 */
import { writePng } from "../images/index.js";
import { checkRewards, type Reward } from "../rewards/index.js";
import { breathe, noGrad, type Tensor, tidy } from "../torch/index.js";
import type { Policy } from "./policy.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import type { BranchBatch } from "./records.js";
import { chunks } from "../base/chunks.js";

/**
 * The reward of every branch.
 *
 * @param imageFile where to keep the picture of a sample, undefined for not at all
 * @throws RewardError when the reward does not give one finite number an image
 */
export async function scoreBranches(
  policy: Policy,
  batch: BranchBatch,
  reward: Reward,
  { batchSize, imageFile }: { batchSize: number; imageFile: (sample: number) => string | undefined },
  { progress, signal }: RunContext,
): Promise<number[]> {
  const n = batch.keys.length;
  const task = progress.task("scoring", n, "images");
  const rewards: number[] = [];
  try {
    for (const [start, rows] of chunks(n, batchSize)) {
      checkInterrupted(signal);
      const images = tidy(() => decodeFinal(policy, batch.latents.narrow(0, start, rows)));
      try {
        const prompts = batch.keys.slice(start, start + rows).map(({ prompt }) => prompt);
        rewards.push(...checkRewards(await reward(images, prompts), prompts));
        savePictures(images, (row) => imageFile(start + row));
      } finally {
        images.dispose();
      }
      task.advance(rows);
      await breathe();
    }
  } finally {
    task.done();
  }
  return rewards;
}

/** The pictures of recorded trajectories, [B, s + 1, C, h, w] to [B, 3, H, W] in 0..1. */
function decodeFinal(policy: Policy, latents: Tensor): Tensor {
  return noGrad(() => policy.decode(latents.select(1, -1)));
}

function savePictures(images: Tensor, fileOf: (row: number) => string | undefined): void {
  for (let row = 0; row < images.size(0); row++) {
    const file = fileOf(row);
    if (file !== undefined) tidy(() => writePng(file, images.select(0, row)));
  }
}
