/**
 * Generates images in batches, for evaluations, contact sheets and `b2 generate`. Several workers share the batches, which
 * are those of one process: so the images are.
 */
import { evaluationSteps, type Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { decodeInBatches } from "../b2/rollout/decode.js";
import { denoise, gaussian, type NoiseKey } from "../b2/rollout/denoise.js";
import type { ProgressTask } from "../base/progress.js";
import { alone, batchShareOf, type Share, type WithWorkers } from "../distributed/index.js";
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

/** The images of `total` that a worker generates. */
export const imagesOfWorker = (
  total: number,
  { sample }: Pick<Config, "sample">,
  worker: { readonly rank: number; readonly size: number },
): Share => batchShareOf(total, sample.batchSize, worker);

/**
 * Generates this worker's part of the images and passes each batch to `use`.
 *
 * @throws Interrupted when the signal aborts
 */
export async function generateImages(
  policy: Policy,
  wanted: readonly WantedImage[],
  config: Pick<Config, "sample" | "eval">,
  { label, use }: GenerateOptions,
  { progress, signal, workers = alone }: WithWorkers,
): Promise<void> {
  const { sample } = config;
  const { latentShape, device } = policy;
  const timesteps = policy.timestepsOf(evaluationSteps(config));
  const isNoisy = (): boolean => config.eval.noise === "everywhere";
  const { start: first, length: total } = imagesOfWorker(wanted.length, config, workers);
  const task = progress.task(label, total * timesteps.length, "steps");
  try {
    const work = { key: "sample.batchSize", first, total, size: sample.batchSize, progress } as const;
    const promptsOf = (start: number, rows: number): string[] =>
      wanted.slice(start, start + rows).map(({ prompt }) => prompt);
    const make = (start: number, rows: number, { advance }: Pick<ProgressTask, "advance">): Promise<Tensor> => {
      const noise = wanted.slice(start, start + rows).map((item) => item.noise);
      return denoise(policy, gaussian(noise, 0, latentShape, device), promptsOf(start, rows), noise, {
        timesteps,
        from: 0,
        to: timesteps.length,
        isNoisy,
        signal,
        onStep: () => advance(rows),
      });
    };
    await policy.batches.each(work, task, make, async (latents, start, rows) => {
      const prompts = promptsOf(start, rows);
      try {
        const decoding = { batchSize: sample.decodeBatchSize, signal, progress };
        await decodeInBatches(policy, latents, decoding, (images, from) =>
          use(images, prompts.slice(from, from + images.size(0)), start + from),
        );
      } finally {
        latents.dispose();
      }
    });
  } finally {
    task.done();
  }
}

/** Address of the noise of evaluations and generated images, in a stream apart from that of training. */
export const evaluationNoise = (seed: number, root: number, branch: number): NoiseKey => {
  return { seed, stream: "evaluation", stage: 0, root, branch };
};
