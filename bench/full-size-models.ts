/**
 * Stable Diffusion 1.4 and SDXL at their true sizes, with random weights, as diffusers folders: the same speed
 * and memory, without downloading gigabytes. The tokenizer is the embedded model's.
 */
import { cpSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stableDiffusion14 } from "../src/doctor/index.js";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  UNet2DConditionModel,
  type UNetConfigInput,
} from "../src/models/index.js";
import { Generator, type DType } from "../src/torch/index.js";

export const modelNames = ["sd14", "sdxl"] as const;
export type ModelName = (typeof modelNames)[number];

/** The configs of the UNets, as published; what is not named has diffusers' default. */
export const unetConfigs: Record<ModelName, UNetConfigInput> = {
  sd14: stableDiffusion14.unet,
  sdxl: {
    sample_size: 128,
    block_out_channels: [320, 640, 1280],
    down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    transformer_layers_per_block: [1, 2, 10],
    attention_head_dim: [5, 10, 20],
    cross_attention_dim: 2048,
    use_linear_projection: true,
    addition_embed_type: "text_time",
    addition_time_embed_dim: 256,
    projection_class_embeddings_input_dim: 2816,
  },
};

const clipBigG = {
  hidden_size: 1280,
  intermediate_size: 5120,
  num_hidden_layers: 32,
  num_attention_heads: 20,
  hidden_act: "gelu",
  projection_dim: 1280,
};

const { vae, textEncoder, scheduler } = stableDiffusion14;

const embedded = fileURLToPath(new URL("../../models/emoji/", import.meta.url));

/**
 * The folder of a model, created in `cache` unless it exists, which takes a minute and as many bytes as its weights.
 */
export function fullSizeModel(name: ModelName, dtype: DType, cache: string): string {
  const folder = join(cache, `${name}-${dtype}`);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.unfinished`;
  const at = (part: string): string => join(unfinished, part);
  const options = { dtype, generator: new Generator(0) };
  const parts = {
    unet: () => UNet2DConditionModel.fromConfig(unetConfigs[name], options),
    vae: () => AutoencoderKL.fromConfig({ ...vae, ...(name === "sdxl" && { scaling_factor: 0.13025 }) }, options),
    text_encoder: () => CLIPTextModel.fromConfig(textEncoder, options),
    ...(name === "sdxl" && { text_encoder_2: () => CLIPTextModelWithProjection.fromConfig(clipBigG, options) }),
  };
  const classes: Record<string, readonly [string, string]> = {};
  for (const [part, make] of Object.entries(parts)) {
    const model = make();
    model.savePretrained(at(part));
    model.dispose();
    classes[part] = [part.startsWith("text") ? "transformers" : "diffusers", model.constructor.name];
  }
  for (const part of name === "sdxl" ? ["tokenizer", "tokenizer_2"] : ["tokenizer"]) {
    cpSync(join(embedded, "tokenizer"), at(part), { recursive: true });
    classes[part] = ["transformers", "CLIPTokenizer"];
  }
  mkdirSync(at("scheduler"), { recursive: true });
  writeFileSync(join(at("scheduler"), "scheduler_config.json"), JSON.stringify(scheduler));
  const index = {
    _class_name: name === "sdxl" ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline",
    ...classes,
    scheduler: ["diffusers", "DDIMScheduler"],
  };
  writeFileSync(join(unfinished, "model_index.json"), JSON.stringify(index));
  renameSync(unfinished, folder);
  return folder;
}
