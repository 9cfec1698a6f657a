/**
 * The config of UNet2DConditionModel with diffusers' keys, and the settings of each block.
 *
 * Every key of diffusers is listed: supported ones with type and default, the others with the values that turn their
 * feature off. Anything else is refused, see parseConfig.
 */
import { z } from "zod";
import { show } from "../base/show.js";
import { layerCount, off, parseConfig, refuse, whole } from "./config.js";

/** One number for all blocks, or a list with one for each. */
const perBlock = z.union([whole, z.array(whole)]);
/** Number of transformer blocks; some configs have 0 for levels without attention. */
const depth = z.union([layerCount, z.literal(0)]);
/** One number for all blocks, or a list with a number per block or a list of numbers, one per layer of the block. */
const perLayer = z.union([depth, z.array(z.union([depth, z.array(depth)]))]);
const flag = z.boolean().nullable().default(false);

export const unetConfigSchema = z.strictObject({
  sample_size: z.union([whole, z.array(whole).length(2), z.null()]).optional(),
  in_channels: whole.default(4),
  out_channels: whole.default(4),
  flip_sin_to_cos: z.boolean().default(true),
  freq_shift: z.number().default(0),
  down_block_types: z
    .array(z.enum(["CrossAttnDownBlock2D", "DownBlock2D"]))
    .min(1)
    .default(["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]),
  /** UNetMidBlock2D is a single resnet. */
  mid_block_type: z.literal(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D", null]).default("UNetMidBlock2DCrossAttn"),
  up_block_types: z
    .array(z.enum(["CrossAttnUpBlock2D", "UpBlock2D"]))
    .min(1)
    .default(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
  block_out_channels: z.array(whole).min(1).default([320, 640, 1280, 1280]),
  layers_per_block: z.union([layerCount, z.array(layerCount)]).default(2),
  norm_num_groups: whole.default(32),
  norm_eps: z.number().positive().default(1e-5),
  cross_attention_dim: perBlock.default(1280),
  transformer_layers_per_block: perLayer.default(1),
  /** Of the up blocks, from the lowest resolution up, where they are not those of the down blocks. */
  reverse_transformer_layers_per_block: perLayer.nullable().default(null),
  /** The number of heads, despite its name: diffusers kept the misnomer for compatibility with checkpoints. */
  attention_head_dim: perBlock.default(8),
  use_linear_projection: flag,
  upcast_attention: flag, // null in SDXL's
  addition_embed_type: z.literal(["text_time", null]).default(null),
  addition_time_embed_dim: whole.nullable().default(null),
  projection_class_embeddings_input_dim: whole.nullable().default(null),
  time_embedding_dim: whole.nullable().default(null),
  // Read by "text" and "image" embeddings only, which are refused above.
  addition_embed_type_num_heads: z.number().optional(),

  act_fn: off("silu", "swish"),
  attention_type: off("default"),
  center_input_sample: off(false),
  class_embed_type: off(null),
  class_embeddings_concat: off(false),
  conv_in_kernel: off(3),
  conv_out_kernel: off(3),
  cross_attention_norm: off(null),
  downsample_padding: off(1),
  dropout: off(0),
  dual_cross_attention: off(false),
  encoder_hid_dim: off(null),
  encoder_hid_dim_type: off(null),
  mid_block_only_cross_attention: off(null, false),
  mid_block_scale_factor: off(1),
  num_attention_heads: off(null),
  num_class_embeds: off(null),
  only_cross_attention: off(false),
  resnet_out_scale_factor: off(1),
  resnet_skip_time_act: off(false),
  resnet_time_scale_shift: off("default"),
  time_cond_proj_dim: off(null),
  time_embedding_act_fn: off(null),
  time_embedding_type: off("positional"),
  timestep_post_act: off(null),
});

export type UNetConfig = z.output<typeof unetConfigSchema>;
/** A config as in a file; missing keys get diffusers' defaults. */
export type UNetConfigInput = z.input<typeof unetConfigSchema>;

/** EMA settings, which diffusers writes into the averaged model's config and no model reads. */
const AVERAGING = new Set(
  "decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup".split(" "),
);

/** One resolution of the UNet. */
export interface LevelConfig {
  readonly channels: number;
  readonly layers: number;
  readonly heads: number;
  /** Transformer blocks after each resnet of the down block, and of the up block, which has one resnet more. */
  readonly downTransformers: readonly number[];
  readonly upTransformers: readonly number[];
  readonly crossAttentionDim: number;
  readonly downAttends: boolean;
  /** Of the up block at this resolution, which diffusers lists from the lowest up. */
  readonly upAttends: boolean;
}

/**
 * Checks a config.
 *
 * @param source what to name in the error: a file, or the model
 * @throws ModelConfigError with a sentence for every key at fault
 */
export function parseUNetConfig(config: object, source: string): UNetConfig {
  const own = Object.fromEntries(Object.entries(config).filter(([key]) => !AVERAGING.has(key)));
  const parsed = parseConfig(unetConfigSchema, own, source);
  refuse(source, problemsOf(parsed));
  return parsed;
}

/** Keys that may have one value per level. */
const LISTS = [
  "down_block_types",
  "up_block_types",
  "layers_per_block",
  "attention_head_dim",
  "cross_attention_dim",
  "transformer_layers_per_block",
  "reverse_transformer_layers_per_block",
] as const;

/** Problems of several keys together. */
function problemsOf(config: UNetConfig): string[] {
  const levels = config.block_out_channels.length;
  const uneven = LISTS.flatMap((key) => {
    const value = config[key];
    return Array.isArray(value) && value.length !== levels
      ? [`Expected ${levels} entries, as in block_out_channels, for ${key} but received ${value.length}`]
      : [];
  });
  if (uneven.length > 0) return uneven;

  const problems: string[] = [];
  const unless = (holds: boolean, what: string, key: keyof UNetConfig): void => {
    if (!holds) problems.push(`Expected ${what} for ${key} but received ${show(config[key])}`);
  };
  const { norm_num_groups: groups, mid_block_type: middle } = config;
  const nested = (value: unknown): boolean => Array.isArray(value) && value.some(Array.isArray);
  unless(
    !nested(config.transformer_layers_per_block) || config.reverse_transformer_layers_per_block !== null,
    "the up blocks' numbers beside a list of lists in transformer_layers_per_block",
    "reverse_transformer_layers_per_block",
  );
  unless(
    config.block_out_channels.every((channels) => channels % groups === 0),
    `multiples of norm_num_groups, ${groups},`,
    "block_out_channels",
  );
  const [first] = config.block_out_channels;
  // Half of the sinusoids are sines, half are cosines.
  unless(first! % 2 === 0, "an even number as the first entry", "block_out_channels");
  unless(config.freq_shift < first! / 2, `less than ${first! / 2}, half of block_out_channels' first,`, "freq_shift");
  levelsOf(config).forEach((level, i) => {
    const { channels, heads, layers, downTransformers, upTransformers, downAttends, upAttends } = level;
    const midAttends = middle === "UNetMidBlock2DCrossAttn" && i === levels - 1;
    if (downAttends || upAttends || midAttends) {
      unless(channels % heads === 0, `numbers of heads that divide block_out_channels`, "attention_head_dim");
    }
    unless(downTransformers.length >= layers, `${layers} entries for block ${i}`, "transformer_layers_per_block");
    const own = config.reverse_transformer_layers_per_block === null ? "transformer" : "reverse_transformer";
    unless(upTransformers.length > layers, `${layers + 1} entries for level ${i}`, `${own}_layers_per_block`);
  });
  if (config.addition_embed_type === "text_time") {
    const keys = ["addition_time_embed_dim", "projection_class_embeddings_input_dim"] as const;
    for (const key of keys) unless(config[key] !== null, "a number beside addition_embed_type text_time", key);
    const features = config.addition_time_embed_dim ?? 2;
    unless(features % 2 === 0, "an even number", "addition_time_embed_dim");
    unless(config.freq_shift < features / 2, "less than half of addition_time_embed_dim", "freq_shift");
  }
  return problems;
}

/** The levels of a valid config, from the highest resolution down. */
export function levelsOf(config: UNetConfig): LevelConfig[] {
  const levels = config.block_out_channels.length;
  const listed = <T>(value: T | readonly T[]): readonly T[] =>
    Array.isArray(value) ? (value as readonly T[]) : Array.from({ length: levels }, () => value as T);
  const each = (entry: number | readonly number[], count: number): readonly number[] =>
    typeof entry === "number" ? Array.from({ length: count }, () => entry) : entry;
  const layers = listed(config.layers_per_block);
  const heads = listed(config.attention_head_dim);
  const crossAttentionDim = listed(config.cross_attention_dim);
  const downTransformers = listed<number | readonly number[]>(config.transformer_layers_per_block);
  const reversed = config.reverse_transformer_layers_per_block;
  const upTransformers =
    reversed === null ? downTransformers : listed<number | readonly number[]>(reversed).toReversed();
  const up = config.up_block_types.toReversed();
  return config.block_out_channels.map((channels, i) => ({
    channels,
    layers: layers[i]!,
    heads: heads[i]!,
    downTransformers: each(downTransformers[i]!, layers[i]!),
    upTransformers: each(upTransformers[i]!, layers[i]! + 1),
    crossAttentionDim: crossAttentionDim[i]!,
    downAttends: config.down_block_types[i] === "CrossAttnDownBlock2D",
    upAttends: up[i] === "CrossAttnUpBlock2D",
  }));
}
