/**
 * Infers configs of a checkpoint in the original layout, which contains none: widths, layers and depths from the shapes
 * of its tensors, and what shapes do not show (heads, groups, activations) from the published models of its family.
 */
import type { UNetConfigInput } from "../models/index.js";
import { SafetensorsError, type SafetensorsHeader } from "../safetensors/index.js";
import type { Family } from "./family.js";

/** Shapes of a file's tensors, by keys relative to a prefix. */
export class Shapes {
  readonly #header: SafetensorsHeader;
  readonly #prefix: string;

  constructor(header: SafetensorsHeader, prefix = "") {
    this.#header = header;
    this.#prefix = prefix;
  }

  at(path: string): Shapes {
    return new Shapes(this.#header, `${this.#prefix}${path}`);
  }

  find(key: string): readonly number[] | undefined {
    return this.#header.tensors.get(this.#prefix + key)?.shape;
  }

  /** @throws SafetensorsError naming the key when it is missing, or has fewer dimensions than `index` */
  size(key: string, index: number): number {
    const size = this.find(key)?.[index];
    if (size !== undefined) return size;
    const { file } = this.#header;
    throw new SafetensorsError(file, "Expected a tensor of this name but received none", this.#prefix + key);
  }

  /** Every number N of keys that begin with `<name>.N.<rest>`, ascending. */
  numbers(name: string, rest = ""): number[] {
    const start = `${this.#prefix}${name}.`;
    const found = [...this.#header.tensors.keys()].flatMap((key) => {
      const [, number] = key.startsWith(start) ? (/^(\d+)\./.exec(key.slice(start.length)) ?? []) : [];
      return number !== undefined && key.startsWith(`${start}${number}.${rest}`) ? [Number(number)] : [];
    });
    return [...new Set(found)].sort((a, b) => a - b);
  }

  /** How many of `name(0)`, `name(1)`, ... there are. */
  count(name: (i: number) => string): number {
    let count = 0;
    while (this.find(name(count)) !== undefined) count++;
    return count;
  }
}

interface Level {
  channels: number;
  layers: number;
  depth: number;
  attends: boolean;
}

/** The UNet's config. @param family determines heads, sample size and SDXL's conditioning */
export function inferUNet(shapes: Shapes, family: Family): UNetConfigInput {
  const levels: Level[] = [];
  let contextDim = 0;
  let linear = false;
  const first = shapes.size("input_blocks.0.0.weight", 0);
  let level: Level = { channels: first, layers: 0, depth: 1, attends: false };
  for (let i = 1; ; i++) {
    const block = shapes.at(`input_blocks.${i}.`);
    if (block.find("0.op.weight") !== undefined) {
      levels.push(level);
      level = { channels: level.channels, layers: 0, depth: 1, attends: false };
      continue;
    }
    if (block.find("0.in_layers.2.weight") === undefined) break;
    level.channels = block.size("0.in_layers.2.weight", 0);
    level.layers++;
    if (block.find("1.proj_in.weight") === undefined) continue;
    level.attends = true;
    level.depth = block.count((layer) => `1.transformer_blocks.${layer}.attn1.to_q.weight`);
    linear = block.find("1.proj_in.weight")!.length === 2;
    contextDim = block.size("1.transformer_blocks.0.attn2.to_k.weight", 1);
  }
  levels.push(level);
  // The mid block gives the depth of the lowest level, which may itself have no attention (SD 1 and 2).
  const mid = shapes.count((layer) => `middle_block.1.transformer_blocks.${layer}.attn1.to_q.weight`);
  if (mid > 0) level.depth = mid;
  if (contextDim === 0) contextDim = shapes.size("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1);
  const channels = levels.map(({ channels }) => channels);
  return {
    in_channels: shapes.size("input_blocks.0.0.weight", 1),
    out_channels: shapes.size("out.2.weight", 0),
    block_out_channels: channels,
    layers_per_block: level.layers,
    down_block_types: levels.map(({ attends }) => (attends ? "CrossAttnDownBlock2D" : "DownBlock2D")),
    up_block_types: levels.toReversed().map(({ attends }) => (attends ? "CrossAttnUpBlock2D" : "UpBlock2D")),
    transformer_layers_per_block: levels.map(({ depth }) => depth),
    cross_attention_dim: contextDim,
    use_linear_projection: linear,
    // Stable Diffusion 2.1 overflows in float16 without it; it does not harm the others of its family.
    upcast_attention: family === "sd2",
    // 8 heads in SD 1; heads of 64 channels since.
    attention_head_dim: family === "sd1" ? 8 : channels.map((width) => Math.max(1, width / 64)),
    sample_size: { sd1: 64, sd2: 96, sdxl: 128 }[family],
    ...(family === "sdxl" && {
      addition_embed_type: "text_time",
      addition_time_embed_dim: 256,
      projection_class_embeddings_input_dim: shapes.size("label_emb.0.0.weight", 1),
    }),
  };
}

export const inferVae = (shapes: Shapes, family: Family): object => ({
  ...inferAutoencoder(shapes),
  sample_size: { sd1: 512, sd2: 768, sdxl: 1024 }[family],
  scaling_factor: family === "sdxl" ? 0.13025 : 0.18215,
});

/** What the shapes of a VAE show. */
export function inferAutoencoder(shapes: Shapes): object {
  const levels = shapes.count((i) => `encoder.down.${i}.block.0.conv1.weight`);
  return {
    in_channels: shapes.size("encoder.conv_in.weight", 1),
    out_channels: shapes.size("decoder.conv_out.weight", 0),
    latent_channels: shapes.size("decoder.conv_in.weight", 1),
    block_out_channels: Array.from({ length: levels }, (_, i) =>
      shapes.size(`encoder.down.${i}.block.0.conv1.weight`, 0),
    ),
    layers_per_block: shapes.count((i) => `encoder.down.0.block.${i}.conv1.weight`),
    down_block_types: Array.from({ length: levels }, () => "DownEncoderBlock2D"),
    up_block_types: Array.from({ length: levels }, () => "UpDecoderBlock2D"),
  };
}

/** CLIP ViT-L's text tower, as transformers names it. */
export function inferClip(shapes: Shapes): object {
  const tower = shapes.find("text_model.final_layer_norm.weight") === undefined ? shapes : shapes.at("text_model.");
  const width = tower.size("embeddings.token_embedding.weight", 1);
  return {
    vocab_size: tower.size("embeddings.token_embedding.weight", 0),
    hidden_size: width,
    intermediate_size: tower.size("encoder.layers.0.mlp.fc1.weight", 0),
    num_hidden_layers: tower.count((i) => `encoder.layers.${i}.mlp.fc1.weight`),
    num_attention_heads: Math.max(1, width / 64),
    max_position_embeddings: tower.size("embeddings.position_embedding.weight", 0),
    hidden_act: "quick_gelu",
    // 2 makes transformers use the largest id, which is the end-of-text token's.
    eos_token_id: 2,
  };
}

/**
 * OpenCLIP's text tower.
 *
 * @param layers how many layers are used: SD 2 skips the last one
 */
export function inferOpenClip(shapes: Shapes, layers: number): object {
  const width = shapes.size("token_embedding.weight", 1);
  return {
    vocab_size: shapes.size("token_embedding.weight", 0),
    hidden_size: width,
    intermediate_size: shapes.size("transformer.resblocks.0.mlp.c_fc.weight", 0),
    projection_dim: shapes.find("text_projection")?.[1] ?? 512,
    num_hidden_layers: layers,
    num_attention_heads: Math.max(1, width / 64),
    max_position_embeddings: shapes.size("positional_embedding", 0),
    hidden_act: "gelu",
    eos_token_id: 2,
  };
}
