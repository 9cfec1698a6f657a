/**
 * CLIPScore (Hessel et al. 2021, arXiv 2104.08718): the cosine between CLIP's features of image and prompt, unscaled,
 * as in the reference of B2-DiffuRL (with ViT-H-14, for which values are about 0.2 to 0.4).
 *
 * Departure: the paper takes 2.5 max(cosine, 0).
 */
import { z } from "zod";
import { chunks } from "../base/chunks.js";
import { tidy, yieldToEventLoop, type Tensor } from "../torch/index.js";
import type { Clip } from "./clip.js";
import { placementOf, placementOptions } from "./placement.js";
import { defineReward, type NeededModel, type Reward } from "./reward.js";

/** Images encoded per batch; bounds memory. */
const IMAGES_AT_ONCE = 64;

/**
 * Scores images a batch at a time, and lets other work in between.
 *
 * @param scoresOf the scores [B] of a batch of images and their prompts; it may leave temporaries
 */
export async function inBatches(
  images: Tensor,
  prompts: readonly string[],
  scoresOf: (images: Tensor, prompts: readonly string[]) => Tensor,
): Promise<number[]> {
  const scores: number[] = [];
  for (const [start, length] of chunks(prompts.length, IMAGES_AT_ONCE)) {
    scores.push(
      ...tidy(() => scoresOf(images.narrow(0, start, length), prompts.slice(start, start + length)).toArray()),
    );
    await yieldToEventLoop();
  }
  return scores;
}

/** CLIPScore as a reward, times `scale`. The caller still owns the CLIP and disposes of it. */
export function clipScore(clip: Clip, { scale = 1 }: { readonly scale?: number } = {}): Reward {
  return {
    score: (images, prompts) =>
      inBatches(images, prompts, (some, texts) => {
        const cosines = clip.imageFeatures(some).mul(clip.textFeatures(texts)).sum({ dim: 1 });
        return scale === 1 ? cosines : cosines.mul(scale);
      }),
  };
}

/** The models of a reward with the options `model` and `processor`. */
export const clipModels = ({ model, processor }: { readonly model: string; readonly processor: string | null }) => [
  model,
  ...(processor === null ? [] : [{ path: processor, purpose: "settings" } satisfies NeededModel]),
];

export const clipScoreKind = defineReward({
  name: "clip-score",
  summary: "CLIPScore: the cosine of CLIP's features of image and prompt",
  cost: "one pass of CLIP's image encoder per image, and one of its text encoder per prompt",
  range: "-1 to 1; about 0.2 to 0.4 with ViT-H-14",
  source: "Hessel et al. 2021, arXiv 2104.08718, without the factor 2.5",
  licence: "that of the CLIP; MIT for OpenAI's and LAION's",
  options: z.object({
    model: z
      .string()
      .min(1)
      .default("models/emoji-clip")
      .describe(
        "CLIP: a folder in transformers' or OpenCLIP's layout, a safetensors file with the keys of either, or a name on the hub.",
      ),
    processor: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe(
        "Another CLIP, whose tokenizer, preprocessor and config are used where the model has none of its own. Its weights are not loaded.",
      ),
    ...placementOptions,
  }),
  models: clipModels,
  open: (options, context) => clipScore(context.clip(options.model, placementOf(options), options.processor)),
});
