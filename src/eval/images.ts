/** Generates images in batches, for evaluations, contact sheets and `b2 generate`. */
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { decodeInBatches } from "../b2/rollout/decode.js";
import { denoise, gaussian, type NoiseKey } from "../b2/rollout/denoise.js";
import { chunks } from "../base/chunks.js";
import type { RunContext } from "../base/progress.js";
import type { Tensor } from "../torch/index.js";

/** An image to generate: its prompt, and the address of its noise. */
export interface WantedImage {
  readonly prompt: string;
  readonly noise: NoiseKey;
}

export interface GenerateOptions {
  /** Label of the progress bar. */
  readonly label: string;
  /**
   * Called with each batch: images [B, 3, H, W] in 0..1, which are freed afterwards, their prompts, and the index of
   * the first in `wanted`.
   */
  readonly use: (images: Tensor, prompts: string[], start: number) => void | Promise<void>;
}

/** Generates images and passes each batch to `use`. @throws Interrupted when the signal aborts */
export async function generateImages(
  policy: Policy,
  wanted: readonly WantedImage[],
  { sample }: Pick<Config, "sample">,
  { label, use }: GenerateOptions,
  { progress, signal }: RunContext,
): Promise<void> {
  const { timesteps, latentShape, device } = policy;
  const task = progress.task(label, wanted.length * timesteps.length, "steps");
  try {
    for (const [start, rows] of chunks(wanted.length, sample.batchSize)) {
      const batch = wanted.slice(start, start + rows);
      const noise = batch.map((item) => item.noise);
      const prompts = batch.map(({ prompt }) => prompt);
      const latents = await denoise(policy, gaussian(noise, 0, latentShape, device), prompts, noise, {
        timesteps,
        from: 0,
        to: timesteps.length,
        signal,
        onStep: () => task.advance(rows),
      });
      try {
        const decoding = { batchSize: sample.decodeBatchSize, signal };
        await decodeInBatches(policy, latents, decoding, (images, from) =>
          use(images, prompts.slice(from, from + images.size(0)), start + from),
        );
      } finally {
        latents.dispose();
      }
    }
  } finally {
    task.done();
  }
}

/** Address of the noise of evaluations and generated images, in a stream apart from that of training. */
export const evaluationNoise = (seed: number, root: number, branch: number): NoiseKey => {
  return { seed, stream: "evaluation", stage: 0, root, branch };
};
