/** Images of prompts, a few at a time: what evaluations, contact sheets and `b2 generate` share. */
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { denoise, gaussian, type NoiseKey } from "../b2/rollout/denoise.js";
import { chunks } from "../base/chunks.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { inference, yieldToEventLoop, type Tensor } from "../torch/index.js";

/** An image that is wanted: its prompt, and the address of its noise. */
export interface WantedImage {
  readonly prompt: string;
  readonly noise: NoiseKey;
}

export interface GenerateOptions {
  /** What the progress bar says. */
  readonly label: string;
  /** Is lent each batch: images [B, 3, H, W] in 0..1, their prompts, and the place of the first in `wanted`. */
  readonly use: (images: Tensor, prompts: string[], start: number) => void | Promise<void>;
}

/** Generates images, and lends each batch to `use`. */
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
        for (const [from, length] of chunks(rows, sample.decodeBatchSize)) {
          checkInterrupted(signal);
          const images = inference(() => policy.decode(latents.narrow(0, from, length)));
          try {
            await use(images, prompts.slice(from, from + length), start + from);
          } finally {
            images.dispose();
          }
          await yieldToEventLoop();
        }
      } finally {
        latents.dispose();
      }
    }
  } finally {
    task.done();
  }
}

/** Noise of evaluations and generated images; it never meets that of training. */
export const evaluationNoise = (seed: number, root: number, branch: number): NoiseKey => {
  return { seed, stream: "evaluation", stage: 0, root, branch };
};
