/**
 * Checkpoints in OpenCLIP's own layout (github.com/mlfoundations/open_clip): `open_clip_config.json` beside weights whose
 * keys are those of its CLIP class, read into transformers' CLIPModel.
 *
 * Only the plain form is read: a vision transformer whose first token becomes the feature, and a causal text transformer
 * that is pooled at the end of the text. Everything else that a config can ask for is refused by name.
 */
import { z } from "zod";
import { readJsonObject } from "../base/files.js";
import { CLIPModel, layerCount, loadModel, ModelConfigError, off, parseConfig, whole } from "../models/index.js";
import type { WeightsOptions } from "../nn/index.js";
import { readHeader } from "../safetensors/index.js";
import { openClipModelNames } from "./names.js";

const ratio = z.number().positive().max(100).default(4);
const section = z.looseObject({});

const visionSchema = z.strictObject({
  image_size: whole.default(224),
  layers: layerCount.default(12),
  width: whole.default(768),
  head_width: whole.default(64),
  mlp_ratio: ratio,
  patch_size: whole.default(16),
  /** Of training alone. */
  patch_dropout: z.number().optional(),
  attn_pooler_queries: z.number().optional(),
  attn_pooler_heads: z.number().optional(),
  ls_init_value: off(null),
  attentional_pool: off(false),
  global_average_pool: off(false),
  input_patchnorm: off(false),
  no_ln_pre: off(false),
  pos_embed_type: off("learnable"),
  final_ln_after_pool: off(false),
  pool_type: off("tok"),
  output_tokens: off(false),
  act_kwargs: off(null),
  norm_kwargs: off(null),
  timm_model_name: off(null),
});

const textSchema = z.strictObject({
  context_length: whole.default(77),
  vocab_size: whole.default(49408),
  width: whole.default(512),
  heads: whole.default(8),
  layers: layerCount.default(12),
  mlp_ratio: ratio,
  /** No effect: attention is causal, and padding comes after the end. */
  pad_id: z.int().optional(),
  ls_init_value: off(null),
  embed_cls: off(false),
  no_causal_mask: off(false),
  final_ln_after_pool: off(false),
  pool_type: off("argmax"),
  proj_bias: off(false),
  proj_type: off("linear"),
  output_tokens: off(false),
  act_kwargs: off(null),
  norm_kwargs: off(null),
  tokenizer_kwargs: off(null),
  hf_tokenizer_name: off(null, ""),
  hf_model_name: off(null),
});

const modelSchema = z.strictObject({
  embed_dim: whole,
  vision_cfg: section,
  text_cfg: section,
  quick_gelu: z.boolean().default(false),
  /** Where training begins. */
  init_logit_scale: z.number().optional(),
  init_logit_bias: off(null),
  nonscalar_logit_scale: off(false),
  custom_text: off(false),
  multimodal_cfg: off(null),
});

const triple = z.array(z.number()).length(3);

const preprocessingSchema = z.strictObject({
  size: z.union([whole, z.array(whole).length(2)]).optional(),
  mode: off("RGB"),
  mean: triple.default([0.48145466, 0.4578275, 0.40821073]),
  std: z.array(z.number().positive()).length(3).default([0.26862954, 0.26130258, 0.27577711]),
  interpolation: z.enum(["bicubic", "bilinear"]).default("bicubic"),
  resize_mode: z.enum(["shortest", "squash"]).default("shortest"),
  /** Of padding, which neither mode needs. */
  fill_color: z.number().optional(),
});

/** How images are prepared. */
export interface OpenClipPreprocessing {
  readonly height: number;
  readonly width: number;
  readonly mean: readonly number[];
  readonly std: readonly number[];
  readonly interpolation: "bicubic" | "bilinear";
  /** Whether both sides are resized by their own factor; else the shortest one decides, and the centre is cropped. */
  readonly squash: boolean;
}

/** A config of OpenCLIP. */
export interface OpenClipConfig {
  /** As CLIPModel's config.json has it. */
  readonly model: object;
  readonly preprocessing: OpenClipPreprocessing;
}

/** Reads `open_clip_config.json`. @throws ModelConfigError with a sentence for every key that is not supported */
export function readOpenClipConfig(file: string): OpenClipConfig {
  const { model_cfg, preprocess_cfg } = parseConfig(
    z.strictObject({ model_cfg: section, preprocess_cfg: section.default({}) }),
    readJsonObject(file, ModelConfigError),
    file,
  );
  const model = parseConfig(modelSchema, model_cfg, `${file}: model_cfg`);
  const vision = parseConfig(visionSchema, model.vision_cfg, `${file}: model_cfg.vision_cfg`);
  const text = parseConfig(textSchema, model.text_cfg, `${file}: model_cfg.text_cfg`);
  const { size, ...images } = parseConfig(preprocessingSchema, preprocess_cfg, `${file}: preprocess_cfg`);
  const [height, width] = (Array.isArray(size) ? size : [size ?? vision.image_size, size ?? vision.image_size]) as [
    number,
    number,
  ];
  const hidden_act = model.quick_gelu ? "quick_gelu" : "gelu";
  return {
    model: {
      projection_dim: model.embed_dim,
      vision_config: {
        hidden_act,
        hidden_size: vision.width,
        intermediate_size: Math.floor(vision.width * vision.mlp_ratio),
        num_hidden_layers: vision.layers,
        num_attention_heads: Math.max(1, Math.floor(vision.width / vision.head_width)),
        image_size: vision.image_size,
        patch_size: vision.patch_size,
      },
      text_config: {
        hidden_act,
        hidden_size: text.width,
        intermediate_size: Math.floor(text.width * text.mlp_ratio),
        num_hidden_layers: text.layers,
        num_attention_heads: text.heads,
        max_position_embeddings: text.context_length,
        vocab_size: text.vocab_size,
        // OpenCLIP takes the place of the largest id, which is the end-of-text token's; so does transformers for 2.
        eos_token_id: 2,
      },
    },
    preprocessing: {
      height,
      width,
      mean: images.mean,
      std: images.std,
      interpolation: images.interpolation,
      squash: images.resize_mode === "squash",
    },
  };
}

/** Where OpenCLIP's keys begin: some files have all of them under the name of a wrapper's attribute. */
const PREFIXES = ["", "model."];

/** What stands before OpenCLIP's keys in a file; undefined for a file of other keys. @throws SafetensorsError */
export function openClipPrefix(file: string): string | undefined {
  const { tensors } = readHeader(file);
  return PREFIXES.find((prefix) => tensors.has(`${prefix}visual.proj`));
}

/**
 * Loads a CLIP from a file with OpenCLIP's keys.
 *
 * @param config as CLIPModel's, and where it comes from, for errors
 * @param prefix of its keys, see openClipPrefix
 * @throws ModelConfigError or SafetensorsError naming the file and each key at fault; nothing stays in memory then
 */
export function loadOpenClip(
  file: string,
  { config, source, prefix = "" }: { readonly config: object; readonly source: string; readonly prefix?: string },
  options: WeightsOptions = {},
): CLIPModel {
  const ignore = [/^attn_mask$/];
  const names = openClipModelNames(prefix);
  return loadModel(CLIPModel, { config, source, files: [file], ignore }, { ...options, names, prefix });
}
