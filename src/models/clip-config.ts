/** Configs of CLIP's towers, with transformers' defaults. */
import { z } from "zod";
import { withoutBookkeeping } from "./bookkeeping.js";
import { layerCount, parseConfig, refuse, whole } from "./config.js";

const rate = z.number().min(0).max(1);

/** Keys of both towers: the shape of a transformer. */
const tower = {
  hidden_act: z.enum(["quick_gelu", "gelu"]).default("quick_gelu"),
  layer_norm_eps: z.number().positive().default(1e-5),
  /** Scales the standard deviation of fresh weights. */
  initializer_factor: z.number().positive().default(1),
  initializer_range: z.number().positive().default(0.02),
  /** No effect: there is no dropout here. */
  attention_dropout: rate.default(0),
  dropout: rate.optional(),
};

const textSchema = z.strictObject({
  ...tower,
  vocab_size: whole.default(49408),
  hidden_size: whole.default(512),
  intermediate_size: whole.default(2048),
  projection_dim: whole.default(512),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: whole.default(8),
  max_position_embeddings: whole.default(77),
  model_type: z.literal("clip_text_model").default("clip_text_model"),
  bos_token_id: z.number().int().nullish(),
  /**
   * The token whose state becomes the text's feature. 2 is a historical mistake and means the largest id of the text.
   */
  eos_token_id: z.number().int().default(49407),
  pad_token_id: z.number().int().nullish(),
});

const visionSchema = z.strictObject({
  ...tower,
  hidden_size: whole.default(768),
  intermediate_size: whole.default(3072),
  projection_dim: whole.default(512),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: whole.default(12),
  /** Only RGB is supported. */
  num_channels: z.literal(3).default(3),
  image_size: whole.default(224),
  patch_size: whole.default(32),
  model_type: z.literal("clip_vision_model").default("clip_vision_model"),
  bos_token_id: z.null().optional(),
  eos_token_id: z.null().optional(),
  pad_token_id: z.null().optional(),
});

const clipSchema = z.strictObject({
  text_config: z.looseObject({}).default({}),
  vision_config: z.looseObject({}).default({}),
  // Early versions of transformers wrote the towers' configs a second time, as differences from the defaults. If
  // present, transformers reads only these.
  text_config_dict: z.looseObject({}).nullish(),
  vision_config_dict: z.looseObject({}).nullish(),
  projection_dim: whole.default(512),
  /** Initial value of the log of the inverse temperature, for training. */
  logit_scale_init_value: z.number().default(2.6592),
  initializer_factor: z.number().positive().default(1),
  model_type: z.literal("clip").default("clip"),
});

export type CLIPTextConfig = z.output<typeof textSchema>;
export type CLIPVisionConfig = z.output<typeof visionSchema>;
export type CLIPTowerConfig = CLIPTextConfig | CLIPVisionConfig;
export type CLIPConfig = Omit<
  z.output<typeof clipSchema>,
  "text_config" | "vision_config" | "text_config_dict" | "vision_config_dict"
> & {
  readonly text_config: CLIPTextConfig;
  readonly vision_config: CLIPVisionConfig;
};

/** @throws ModelConfigError with a sentence for every key at fault */
export function parseTextConfig(config: object, source: string): CLIPTextConfig {
  const parsed = parseConfig(textSchema, withoutBookkeeping(config), source);
  refuse(source, headProblems(parsed));
  return parsed;
}

export function parseVisionConfig(config: object, source: string): CLIPVisionConfig {
  const parsed = parseConfig(visionSchema, withoutBookkeeping(config), source);
  const { image_size: image, patch_size: patch } = parsed;
  const small = `Expected at least ${patch}, the patch_size, for image_size but received ${image}`;
  refuse(source, [...headProblems(parsed), ...(image < patch ? [small] : [])]);
  return parsed;
}

function headProblems({ hidden_size: size, num_attention_heads: heads }: CLIPTowerConfig): string[] {
  if (size % heads === 0) return [];
  return [`Expected a multiple of num_attention_heads, ${heads}, for hidden_size but received ${size}`];
}

export function parseClipConfig(config: object, source: string): CLIPConfig {
  const { text_config_dict, vision_config_dict, ...clip } = parseConfig(clipSchema, withoutBookkeeping(config), source);
  return {
    ...clip,
    text_config: parseTextConfig(text_config_dict ?? clip.text_config, `${source}: text_config`),
    vision_config: parseVisionConfig(vision_config_dict ?? clip.vision_config, `${source}: vision_config`),
  };
}
