/**
 * Human Preference Score v2.1 (Wu et al. 2023, arXiv 2306.09341): the cosine of a CLIP ViT-H-14 that was trained on
 * rankings of images by people. The cosine itself, as `hpsv2.score` gives it; the project's tables of models show it
 * times 100.
 *
 * Departure: of an image that is not square the centre counts, as with any CLIP; the reference scales the whole image
 * down and pads it.
 */
import { z } from "zod";
import { isPickle } from "../models/index.js";
import { clipModels, clipOptions } from "./clip-options.js";
import { clipScore } from "./clip-score.js";
import { placementOf } from "./placement.js";
import { defineReward } from "./reward.js";

/** The authors' repository has pickles alone. The other one has the same weights, and OpenCLIP's keys. */
const [PICKLES, SAFETENSORS] = ["xswu/HPSv2", "RE-N-Y/hpsv21/model.safetensors"];

const isSafe = (model: string): boolean => !isPickle(model) && model.split("@")[0] !== PICKLES;

export const hps = defineReward({
  name: "hps",
  summary: "HPS v2.1: how people would rank the images of a prompt",
  cost: "one pass of ViT-H-14's image encoder per image, and one of its text encoder per prompt",
  range: "about 0.2 to 0.35",
  source: "Wu et al. 2023, arXiv 2306.09341, as github.com/tgxs002/HPSv2 (score)",
  licence: "Apache-2.0",
  options: z.object({
    model: z
      .string()
      .min(1)
      .refine(isSafe, {
        message:
          `Expected safetensors weights, such as ${SAFETENSORS} (those of ${PICKLES} are pickles, which can run any ` +
          "code when they are loaded),",
      })
      .default(SAFETENSORS)
      .describe("The trained CLIP: a safetensors file, a folder in OpenCLIP's or transformers' layout, or a hub name."),
    ...clipOptions("laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
  }),
  models: clipModels,
  open: (options, context) => clipScore(context.clip(options.model, placementOf(options), options.processor)),
});
