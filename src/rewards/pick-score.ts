/**
 * PickScore (Kirstain et al. 2023, arXiv 2305.01569): a CLIP ViT-H-14 that was trained to agree with the choices of
 * people between two images, in the two scales that are in use.
 */
import { z } from "zod";
import { clipModels, clipOptions } from "./clip-options.js";
import { clipScore } from "./clip-score.js";
import { placementOf } from "./placement.js";
import { defineReward } from "./reward.js";

/** What flow_grpo divides the score by, so that it is about 1 at most. */
const FLOW_GRPO = 26;

export const pickScore = defineReward({
  name: "pick-score",
  summary: "PickScore: which of two images of a prompt people would choose",
  cost: "one pass of ViT-H-14's image encoder per image, and one of its text encoder per prompt",
  range: "usually 17 to 24; 0.65 to 0.95 with the scale `flow-grpo`",
  source:
    "Kirstain et al. 2023, arXiv 2305.01569, as github.com/yuvalkirstain/PickScore; flow_grpo's pickscore_scorer.py",
  licence: "PickScore_v1 states none; its code and the CLIP that it began from are MIT",
  options: z.object({
    model: z
      .string()
      .min(1)
      .default("yuvalkirstain/PickScore_v1")
      .describe("The trained CLIP: a folder, a safetensors file, or a name on the hub."),
    scale: z
      .enum(["model", "flow-grpo"])
      .default("model")
      .describe("`model`: the cosine times the model's own exp(logit_scale), which is 100. `flow-grpo`: that by 26."),
    ...clipOptions("laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
  }),
  models: clipModels,
  open: (options, context) => {
    const clip = context.clip(options.model, placementOf(options), options.processor);
    return clipScore(clip, { scale: options.scale === "model" ? clip.logitScale : clip.logitScale / FLOW_GRPO });
  },
});
