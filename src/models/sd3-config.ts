/** The config of SD3Transformer2DModel with diffusers' keys: Stable Diffusion 3 and 3.5, medium and large. */
import { z } from "zod";
import { layerCount, parseConfig, refuse, whole } from "./config.js";

const schema = z.strictObject({
  /** Sides of the latents that it was trained on; sets the scale of the position table. */
  sample_size: whole.default(128),
  patch_size: whole.default(2),
  in_channels: whole.default(16),
  /** null: as many as in_channels. */
  out_channels: whole.nullable().default(16),
  num_layers: layerCount.default(18),
  attention_head_dim: whole.default(64),
  num_attention_heads: whole.default(18),
  /** Width of the text's states: that of T5. */
  joint_attention_dim: whole.default(4096),
  /** Width of the text's tokens in the blocks, which is that of the image's. */
  caption_projection_dim: whole.default(1152),
  pooled_projection_dim: whole.default(2048),
  /** Sides of the position table in patches: no image has more. */
  pos_embed_max_size: whole.default(96),
  /** The blocks in which the image attends to itself alone as well: those of 3.5 medium. */
  dual_attention_layers: z.array(z.int().nonnegative()).default([]),
  /** Of queries and keys in every head, as in 3.5. */
  qk_norm: z.literal(["rms_norm", null]).default(null),
});

export type SD3TransformerConfig = z.output<typeof schema>;
/** A config as in a file; missing keys get diffusers' defaults. */
export type SD3TransformerConfigInput = z.input<typeof schema>;

/** The width of the tokens. */
export const widthOf = (config: SD3TransformerConfig): number => config.num_attention_heads * config.attention_head_dim;

/** The channels of a prediction. */
export const outChannelsOf = ({ in_channels, out_channels }: SD3TransformerConfig): number =>
  out_channels ?? in_channels;

/**
 * @param source what to name in the error: a file, or the model
 * @throws ModelConfigError with a sentence for every key at fault
 */
export function parseSD3TransformerConfig(config: object, source: string): SD3TransformerConfig {
  const parsed = parseConfig(schema, config, source);
  const { caption_projection_dim: caption, dual_attention_layers: dual, num_layers: depth } = parsed;
  const { patch_size: patch, sample_size: side, pos_embed_max_size: most } = parsed;
  const width = widthOf(parsed);
  const problems: string[] = [];
  if (caption !== width) {
    problems.push(`Expected ${width}, heads times head dim, for caption_projection_dim but received ${caption}`);
  }
  // A quarter each are sines and cosines of the column and of the row.
  if (width % 4 !== 0) {
    problems.push(`Expected a multiple of 4 for num_attention_heads times attention_head_dim but received ${width}`);
  }
  if (side < patch) {
    problems.push(`Expected at least ${patch}, the patch_size, for sample_size but received ${side}`);
  }
  if (most > 4096) problems.push(`Expected at most 4096 for pos_embed_max_size but received ${most}`);
  for (const layer of dual.filter((layer) => layer >= depth)) {
    problems.push(`Expected less than num_layers, ${depth}, for dual_attention_layers but received ${layer}`);
  }
  refuse(source, problems);
  return parsed;
}
