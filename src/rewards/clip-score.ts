/**
 * CLIPScore (Hessel et al. 2021, arXiv 2104.08718): the cosine between CLIP's features of image and prompt, unscaled,
 * as in the reference of B2-DiffuRL (with ViT-H-14, for which values are about 0.2 to 0.4).
 */
import { z } from "zod";
import { chunks } from "../base/chunks.js";
import { tidy, yieldToEventLoop } from "../torch/index.js";
import type { Clip } from "./clip.js";
import { defineReward, type Reward } from "./reward.js";

/** Images encoded per batch; bounds memory. */
const IMAGES_AT_ONCE = 64;

/** CLIPScore as a reward. The caller still owns the CLIP and disposes of it. */
export function clipScore(clip: Clip): Reward {
  return {
    score: async (images, prompts) => {
      const scores: number[] = [];
      for (const [start, length] of chunks(prompts.length, IMAGES_AT_ONCE)) {
        const some = tidy(() => {
          const texts = clip.textFeatures(prompts.slice(start, start + length));
          return clip
            .imageFeatures(images.narrow(0, start, length))
            .mul(texts)
            .sum({ dim: 1 })
            .toArray();
        });
        scores.push(...some);
        await yieldToEventLoop();
      }
      return scores;
    },
  };
}

export const clipScoreKind = defineReward({
  name: "clip-score",
  summary: "CLIPScore: the cosine of CLIP's features of image and prompt",
  cost: "one pass of CLIP's image encoder per image, and one of its text encoder per prompt",
  options: z.object({
    model: z
      .string()
      .min(1)
      .default("models/emoji-clip")
      .describe("CLIP: a folder in transformers' layout, or a name on the hub."),
  }),
  models: ({ model }) => [model],
  open: ({ model }, context) => clipScore(context.clip(model)),
});
