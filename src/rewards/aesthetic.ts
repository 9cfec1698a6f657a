/**
 * LAION's aesthetic score, version 2 (sac+logos+ava1, linear, mean squared error), as ddpo-pytorch and flow_grpo train
 * with it: a linear head on the image features of CLIP ViT-L/14. The prompt plays no part.
 */
import { z } from "zod";
import { AestheticHead } from "../models/index.js";
import type { Device, Tensor } from "../torch/index.js";
import { inBatches } from "./batches.js";
import { clipModels, clipOptions } from "./clip-options.js";
import { RewardError } from "./error.js";
import { placementOf } from "./placement.js";
import { defineReward, type SharedModel } from "./reward.js";

/** The head as a model that rewards share. Owns the weights: call `dispose`. */
class SharedHead implements SharedModel {
  readonly head: AestheticHead;

  constructor(head: AestheticHead) {
    this.head = head;
  }

  moveTo(device: Device): void {
    this.head.to_(device);
  }

  dispose(): void {
    this.head.dispose();
  }
}

export const aesthetic = defineReward({
  name: "aesthetic",
  summary: "LAION's aesthetic score: the rating that people would give the image, whatever the prompt",
  cost: "one pass of ViT-L/14's image encoder per image",
  range: "about 1 to 10, usually 4 to 7",
  source: "github.com/christophschuhmann/improved-aesthetic-predictor; Black et al. 2023, arXiv 2305.13301",
  licence: "Apache-2.0; the CLIP MIT",
  options: z.object({
    model: z
      .string()
      .min(1)
      .default("openai/clip-vit-large-patch14")
      .describe("The CLIP that the head was trained on: a folder, a safetensors file, or a name on the hub."),
    head: z
      .string()
      .min(1)
      .default("ttj/sac-logos-ava1-l14-linearMSE/model.safetensors")
      .describe("The head: a safetensors file with `layers.0` to `layers.7`, a folder with one, or a name on the hub."),
    ...clipOptions(null),
  }),
  models: (options) => [...clipModels(options), { path: options.head, dtype: "float32" }],
  open: (options, context) => {
    const placement = placementOf(options);
    const clip = context.clip(options.model, placement, options.processor);
    // Five small layers, on features that are float32 whatever the CLIP computes in.
    const { head } = context.shared(
      "aesthetic-head",
      options.head,
      { ...placement, dtype: "float32" },
      (path, place) => {
        return new SharedHead(AestheticHead.fromPretrained(path, place));
      },
    );
    if (head.inFeatures !== clip.features) {
      throw new RewardError(
        `${options.head}: Expected a head for the ${clip.features} features of ${options.model} but received one for ${head.inFeatures}`,
      );
    }
    const score = (images: Tensor, prompts: string[]): Promise<number[]> =>
      inBatches(images, prompts, (some) => head.forward(clip.imageFeatures(some)));
    return { score };
  },
});
