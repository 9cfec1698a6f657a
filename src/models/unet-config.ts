/**
 * The config of UNet2DConditionModel in diffusers' keys, and what it says of each block.
 *
 * Every key of diffusers is listed: those the code honours with their type and default, the rest with the values that
 * switch their feature off. Anything else is refused, see parseConfig.
 */
import { z } from "zod";
import { off } from "./config.js";

const count = z.int().positive();
/** One number for all blocks, or a list with one for each. */
const perBlock = z.union([count, z.array(count)]);

export const unetConfigSchema = z.strictObject({
  sample_size: z.union([count, z.array(count), z.null()]).optional(),
  in_channels: count.default(4),
  out_channels: count.default(4),
  flip_sin_to_cos: z.boolean().default(true),
  freq_shift: z.number().default(0),
  down_block_types: z
    .array(z.enum(["CrossAttnDownBlock2D", "DownBlock2D"]))
    .min(1)
    .default(["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]),
  mid_block_type: z.literal(["UNetMidBlock2DCrossAttn", null]).default("UNetMidBlock2DCrossAttn"),
  up_block_types: z
    .array(z.enum(["CrossAttnUpBlock2D", "UpBlock2D"]))
    .min(1)
    .default(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]),
  block_out_channels: z.array(count).min(1).default([320, 640, 1280, 1280]),
  layers_per_block: perBlock.default(2),
  norm_num_groups: count.default(32),
  norm_eps: z.number().positive().default(1e-5),
  cross_attention_dim: perBlock.default(1280),
  transformer_layers_per_block: perBlock.default(1),
  /** In spite of its name the number of heads: diffusers kept the misnomer for its checkpoints' sake. */
  attention_head_dim: perBlock.default(8),
  use_linear_projection: z.boolean().default(false),
  upcast_attention: z.boolean().default(false),
  addition_embed_type: z.literal(["text_time", null]).default(null),
  addition_time_embed_dim: count.nullable().default(null),
  projection_class_embeddings_input_dim: count.nullable().default(null),
  time_embedding_dim: count.nullable().default(null),
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
  reverse_transformer_layers_per_block: off(null),
  time_cond_proj_dim: off(null),
  time_embedding_act_fn: off(null),
  time_embedding_type: off("positional"),
  timestep_post_act: off(null),
});

export type UNetConfig = z.output<typeof unetConfigSchema>;
/** What may be left out takes diffusers' default. */
export type UNetConfigInput = z.input<typeof unetConfigSchema>;

/** One resolution of the UNet. */
export interface LevelConfig {
  readonly channels: number;
  readonly layers: number;
  readonly heads: number;
  readonly transformerLayers: number;
  readonly crossAttentionDim: number;
  readonly downAttends: boolean;
  /** Of the up block at this resolution, which diffusers lists from the lowest up. */
  readonly upAttends: boolean;
}

/**
 * The levels from the highest resolution down.
 *
 * @throws Error naming the key whose list is of another length than block_out_channels
 */
export function levelsOf(config: UNetConfig): LevelConfig[] {
  const levels = config.block_out_channels.length;
  const listed = <T>(key: string, value: T | readonly T[]): readonly T[] => {
    const list = Array.isArray(value) ? (value as readonly T[]) : Array.from({ length: levels }, () => value as T);
    if (list.length !== levels) {
      throw new Error(`Expected ${levels} entries, as in block_out_channels, for ${key} but received ${list.length}`);
    }
    return list;
  };
  const layers = listed("layers_per_block", config.layers_per_block);
  const heads = listed("attention_head_dim", config.attention_head_dim);
  const transformerLayers = listed("transformer_layers_per_block", config.transformer_layers_per_block);
  const crossAttentionDim = listed("cross_attention_dim", config.cross_attention_dim);
  const down = listed("down_block_types", config.down_block_types);
  const up = listed("up_block_types", config.up_block_types).toReversed();
  return config.block_out_channels.map((channels, i) => ({
    channels,
    layers: layers[i]!,
    heads: heads[i]!,
    transformerLayers: transformerLayers[i]!,
    crossAttentionDim: crossAttentionDim[i]!,
    downAttends: down[i] === "CrossAttnDownBlock2D",
    upAttends: up[i] === "CrossAttnUpBlock2D",
  }));
}
