/** Stable Diffusion 1.4 in its true configs with random weights: its sizes, times and memory without its gigabytes. */
import { join } from "node:path";
import { packageRoot } from "../base/package-root.js";
import { AutoencoderKL, CLIPTextModel, UNet2DConditionModel } from "../models/index.js";
import type { WeightsOptions } from "../nn/index.js";
import { StableDiffusionPipeline } from "../pipeline/index.js";
import { DDIMScheduler } from "../schedulers/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import { Generator } from "../torch/index.js";

/** The configs of its parts, as published; what is not named has diffusers' default. */
export const stableDiffusion14 = {
  unet: { sample_size: 64, cross_attention_dim: 768 },
  vae: {
    block_out_channels: [128, 256, 512, 512],
    layers_per_block: 2,
    down_block_types: Array.from({ length: 4 }, () => "DownEncoderBlock2D"),
    up_block_types: Array.from({ length: 4 }, () => "UpDecoderBlock2D"),
    scaling_factor: 0.18215,
  },
  textEncoder: { hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12, num_attention_heads: 12 },
  scheduler: {
    _class_name: "DDIMScheduler",
    beta_start: 0.00085,
    beta_end: 0.012,
    beta_schedule: "scaled_linear",
    clip_sample: false,
    set_alpha_to_one: false,
    steps_offset: 1,
  },
};

/** The model, with the same random weights each time; the tokenizer is the embedded model's. */
export function randomStableDiffusion14(options: WeightsOptions): StableDiffusionPipeline {
  const { unet, vae, textEncoder, scheduler } = stableDiffusion14;
  const random = { ...options, generator: new Generator(0) };
  const parts = {
    index: { isXL: false, forceZerosForEmptyPrompt: false },
    tokenizer: CLIPTokenizer.fromPretrained(join(packageRoot(), "models/emoji/tokenizer")),
    scheduler: DDIMScheduler.fromConfig(scheduler),
    textEncoder: CLIPTextModel.fromConfig(textEncoder, random),
    unet: UNet2DConditionModel.fromConfig(unet, random),
    vae: AutoencoderKL.fromConfig(vae, random),
  };
  return StableDiffusionPipeline.fromParts(parts, options);
}
