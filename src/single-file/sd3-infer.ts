/**
 * Infers configs of Stable Diffusion 3 from its checkpoint in one file, which contains none: from shapes, and what shapes
 * do not show from the published models.
 */
import type { SD3TransformerConfigInput } from "../models/index.js";
import { inferAutoencoder, inferClip, type Shapes } from "./infer.js";

/** Channels of a head where no norm of queries shows them. */
const HEAD_DIM = 64;

/** Sides of the latents of the published models: 1024 pixels. */
const SAMPLE_SIZE = 128;

/** Pixels along a side of the images that a file says it is for: `1024x1024`. */
export const resolutionOf = (metadata: Readonly<Record<string, string>>): number | undefined => {
  const [, side] = /^(\d{1,6})x\1$/.exec(metadata["modelspec.resolution"] ?? "") ?? [];
  return side === undefined ? undefined : Number(side);
};

/** How many layers of this name there are. The highest number counts, so that a missing tensor is not the end. */
const depthOf = (shapes: Shapes, name: string): number => (shapes.numbers(name).at(-1) ?? -1) + 1;

/** @param sampleSize sides of the latents of the images that it is for, where the file says so */
export function inferSD3Transformer(shapes: Shapes, sampleSize?: number): SD3TransformerConfigInput {
  const [width, patch] = [shapes.size("x_embedder.proj.weight", 0), shapes.size("x_embedder.proj.weight", 2)];
  const isNormed = shapes.numbers("joint_blocks", "x_block.attn.ln_q.").length > 0;
  const headDim = isNormed ? shapes.size("joint_blocks.0.x_block.attn.ln_q.weight", 0) : Math.min(HEAD_DIM, width);
  const places = Math.round(Math.sqrt(shapes.size("pos_embed", 1)));
  return {
    sample_size: sampleSize ?? Math.min(SAMPLE_SIZE, places * patch),
    patch_size: patch,
    in_channels: shapes.size("x_embedder.proj.weight", 1),
    out_channels: Math.floor(shapes.size("final_layer.linear.weight", 0) / patch ** 2),
    num_layers: depthOf(shapes, "joint_blocks"),
    attention_head_dim: headDim,
    num_attention_heads: Math.max(1, Math.floor(width / headDim)),
    joint_attention_dim: shapes.size("context_embedder.weight", 1),
    caption_projection_dim: shapes.size("context_embedder.weight", 0),
    pooled_projection_dim: shapes.size("y_embedder.mlp.0.weight", 1),
    pos_embed_max_size: places,
    dual_attention_layers: shapes.numbers("joint_blocks", "x_block.attn2."),
    qk_norm: isNormed ? "rms_norm" : null,
  };
}

export const inferSD3Vae = (shapes: Shapes): object => ({
  ...inferAutoencoder(shapes),
  use_quant_conv: shapes.find("quant_conv.weight") !== undefined,
  use_post_quant_conv: shapes.find("post_quant_conv.weight") !== undefined,
  sample_size: 8 * SAMPLE_SIZE,
  scaling_factor: 1.5305,
  shift_factor: 0.0609,
});

/** @param activation that of OpenAI's CLIP, or OpenCLIP's */
export const inferProjectedClip = (shapes: Shapes, activation: "quick_gelu" | "gelu"): object => {
  const clip = inferClip(shapes) as { readonly hidden_size: number };
  const projection = shapes.find("text_projection.weight");
  return { ...clip, projection_dim: projection?.[0] ?? clip.hidden_size, hidden_act: activation };
};

/** T5's encoder. */
export function inferT5(shapes: Shapes): object {
  const embeddings = shapes.find("shared.weight") === undefined ? "encoder.embed_tokens.weight" : "shared.weight";
  const [attention, forward] = ["SelfAttention", "DenseReluDense"].map((layer, i) =>
    shapes.at(`encoder.block.0.layer.${i}.${layer}.`),
  ) as [Shapes, Shapes];
  const heads = attention.size("relative_attention_bias.weight", 1);
  const gated = forward.find("wi_0.weight") !== undefined;
  return {
    vocab_size: shapes.size(embeddings, 0),
    d_model: shapes.size(embeddings, 1),
    d_kv: Math.floor(attention.size("q.weight", 0) / heads),
    d_ff: forward.size(gated ? "wi_0.weight" : "wi.weight", 0),
    num_layers: depthOf(shapes, "encoder.block"),
    num_heads: heads,
    relative_attention_num_buckets: attention.size("relative_attention_bias.weight", 0),
    feed_forward_proj: gated ? "gated-gelu" : "relu",
  };
}
