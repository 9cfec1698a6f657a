/**
 * CLIPScore (Hessel et al. 2021, arXiv 2104.08718): the cosine between CLIP's features of image and prompt, unscaled,
 * as in the reference of B2-DiffuRL (with ViT-H-14, for which values are about 0.2 to 0.4).
 *
 * Departure: the paper takes 2.5 max(cosine, 0).
 */
import { z } from "zod";
import { inBatches } from "./batches.js";
import { clipModels, clipOptions } from "./clip-options.js";
import type { Clip } from "./clip.js";
import { placementOf } from "./placement.js";
import { defineReward, type Reward } from "./reward.js";

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
    ...clipOptions(null),
  }),
  models: clipModels,
  open: (options, context) => clipScore(context.clip(options.model, placementOf(options), options.processor)),
});
