/**
 * Stable Diffusion 1.4, SDXL and Stable Diffusion 3.5 medium at their true sizes, with random weights, as diffusers
 * folders: the same speed and memory, without downloading gigabytes. The tokenizers are the embedded model's and, for
 * T5, a small one of the tests.
 */
import { cpSync, existsSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stableDiffusion14 } from "../src/doctor/index.js";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  SD3Transformer2DModel,
  T5EncoderModel,
  UNet2DConditionModel,
  type RandomOptions,
  type SD3TransformerConfigInput,
  type UNetConfigInput,
} from "../src/models/index.js";
import { Generator, type DType } from "../src/torch/index.js";

/** "sd35-t5" is "sd35" with its largest text encoder. */
export const modelNames = ["sd14", "sdxl", "sd35", "sd35-t5"] as const;
export type ModelName = (typeof modelNames)[number];

/** The configs of the UNets, as published; what is not named has diffusers' default. */
export const unetConfigs: Record<"sd14" | "sdxl", UNetConfigInput> = {
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

/** Stable Diffusion 3.5 medium's transformer, as published. */
const sd35Transformer: SD3TransformerConfigInput = {
  num_layers: 24,
  num_attention_heads: 24,
  caption_projection_dim: 1536,
  pos_embed_max_size: 384,
  dual_attention_layers: Array.from({ length: 13 }, (_, i) => i),
  qk_norm: "rms_norm",
};

const clipL = { ...stableDiffusion14.textEncoder, projection_dim: 768 };
const clipBigG = {
  hidden_size: 1280,
  intermediate_size: 5120,
  num_hidden_layers: 32,
  num_attention_heads: 20,
  hidden_act: "gelu",
  projection_dim: 1280,
};
const t5XXL = { d_model: 4096, d_ff: 10_240, num_layers: 24, num_heads: 64, feed_forward_proj: "gated-gelu" } as const;

const vaeOf16Channels = {
  ...stableDiffusion14.vae,
  latent_channels: 16,
  scaling_factor: 1.5305,
  shift_factor: 0.0609,
  use_quant_conv: false,
  use_post_quant_conv: false,
};

/** A model's class and parts; text encoders that are not there stay out of the index. */
interface Recipe {
  readonly pipeline: string;
  readonly scheduler: { readonly _class_name: string };
  readonly parts: (options: RandomOptions) => Record<string, () => Part>;
}

interface Part {
  savePretrained(folder: string): void;
  dispose(): void;
}

const sd35 = (options: RandomOptions) => ({
  transformer: () => SD3Transformer2DModel.fromConfig(sd35Transformer, options),
  vae: () => AutoencoderKL.fromConfig(vaeOf16Channels, options),
  text_encoder: () => CLIPTextModelWithProjection.fromConfig(clipL, options),
  text_encoder_2: () => CLIPTextModelWithProjection.fromConfig(clipBigG, options),
});

const stableDiffusion = { pipeline: "StableDiffusionPipeline", scheduler: stableDiffusion14.scheduler };
const stableDiffusion3 = {
  pipeline: "StableDiffusion3Pipeline",
  scheduler: { _class_name: "FlowMatchEulerDiscreteScheduler", num_train_timesteps: 1000, shift: 3 },
};

const recipes: Record<ModelName, Recipe> = {
  sd14: {
    ...stableDiffusion,
    parts: (options) => ({
      unet: () => UNet2DConditionModel.fromConfig(unetConfigs.sd14, options),
      vae: () => AutoencoderKL.fromConfig(stableDiffusion14.vae, options),
      text_encoder: () => CLIPTextModel.fromConfig(stableDiffusion14.textEncoder, options),
    }),
  },
  sdxl: {
    ...stableDiffusion,
    pipeline: "StableDiffusionXLPipeline",
    parts: (options) => ({
      unet: () => UNet2DConditionModel.fromConfig(unetConfigs.sdxl, options),
      vae: () => AutoencoderKL.fromConfig({ ...stableDiffusion14.vae, scaling_factor: 0.13025 }, options),
      text_encoder: () => CLIPTextModel.fromConfig(stableDiffusion14.textEncoder, options),
      text_encoder_2: () => CLIPTextModelWithProjection.fromConfig(clipBigG, options),
    }),
  },
  sd35: { ...stableDiffusion3, parts: sd35 },
  "sd35-t5": {
    ...stableDiffusion3,
    parts: (options) => ({ ...sd35(options), text_encoder_3: () => T5EncoderModel.fromConfig(t5XXL, options) }),
  },
};

const embedded = fileURLToPath(new URL("../../models/emoji/", import.meta.url));
const t5Tokenizer = fileURLToPath(new URL("../../test/fixtures/sd3/tokenizer_3/", import.meta.url));

/**
 * The folder of a model, created in `cache` unless it exists, which takes a minute and as many bytes as its weights.
 */
export function fullSizeModel(name: ModelName, dtype: DType, cache: string): string {
  const folder = join(cache, `${name}-${dtype}`);
  if (existsSync(folder)) return folder;
  const unfinished = `${folder}.unfinished`;
  const at = (part: string): string => join(unfinished, part);
  const { pipeline, scheduler, parts } = recipes[name];
  const index: Record<string, unknown> = { _class_name: pipeline, scheduler: ["diffusers", scheduler._class_name] };
  for (const [part, make] of Object.entries(parts({ dtype, generator: new Generator(0) }))) {
    const model = make();
    model.savePretrained(at(part));
    model.dispose();
    const isText = part.startsWith("text_encoder");
    index[part] = [isText ? "transformers" : "diffusers", model.constructor.name];
    if (!isText) continue;
    const isT5 = model instanceof T5EncoderModel;
    const tokenizer = part.replace("text_encoder", "tokenizer");
    cpSync(isT5 ? t5Tokenizer : join(embedded, "tokenizer"), at(tokenizer), { recursive: true });
    index[tokenizer] = ["transformers", isT5 ? "T5TokenizerFast" : "CLIPTokenizer"];
  }
  mkdirSync(at("scheduler"), { recursive: true });
  writeFileSync(join(at("scheduler"), "scheduler_config.json"), JSON.stringify(scheduler));
  writeFileSync(join(unfinished, "model_index.json"), JSON.stringify(index));
  renameSync(unfinished, folder);
  return folder;
}
