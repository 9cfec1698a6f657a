/**
 * The modules of SD3Transformer2DModel under the names of Stability's MMDiT, both ways: for checkpoints of one file, and
 * for the LoRA files whose names follow them.
 *
 * Two things differ besides names. Queries, keys and values are one matrix. Norms that give a shift and a scale alone give
 * the shift first, diffusers' AdaLayerNormContinuous the scale: the last one, and that of the text in the last block.
 *
 * Source: the module names of Stability's sd3.5 (mmditx.py).
 */
import type { StoredParameter } from "../nn/index.js";
import type { Names } from "./names.js";

type Modules = readonly (readonly [module: string, stored: StoredParameter])[];

const renamed = (names: Readonly<Record<string, string>>): Modules =>
  Object.entries(names).map(([module, key]) => [module, { key }]);

/** Queries, keys and values, in this order. */
const joined = (key: string, modules: readonly [string, string, string]): Modules =>
  modules.map((module, i) => [module, { key, stored: { qkv: i as 0 | 1 | 2 } }]);

const ENDS: ReadonlyMap<string, StoredParameter> = new Map([
  ...renamed({
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    context_embedder: "context_embedder",
    proj_out: "final_layer.linear",
  }),
  ["norm_out.linear", { key: "final_layer.adaLN_modulation.1", stored: "swapped" }],
]);

/** The norm of a block's text. */
const CONTEXT_NORM = "norm1_context.linear";

/** Modules of `transformer_blocks.N`, which is `joint_blocks.N`. */
const BLOCK: ReadonlyMap<string, StoredParameter> = new Map([
  ...joined("x_block.attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"]),
  ...joined("context_block.attn.qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]),
  ...joined("x_block.attn2.qkv", ["attn2.to_q", "attn2.to_k", "attn2.to_v"]),
  ...renamed({
    "norm1.linear": "x_block.adaLN_modulation.1",
    [CONTEXT_NORM]: "context_block.adaLN_modulation.1",
    "attn.norm_q": "x_block.attn.ln_q",
    "attn.norm_k": "x_block.attn.ln_k",
    "attn.norm_added_q": "context_block.attn.ln_q",
    "attn.norm_added_k": "context_block.attn.ln_k",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "attn2.norm_q": "x_block.attn2.ln_q",
    "attn2.norm_k": "x_block.attn2.ln_k",
    "attn2.to_out.0": "x_block.attn2.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
  }),
]);

/**
 * The original's module of diffusers' one at `path`, and how it is stored there; undefined if there is none.
 *
 * @param isLast whether the norm of a block's text is that of the last block, which gives a shift and a scale alone
 */
export function sd3Module(path: string, isLast: boolean): StoredParameter | undefined {
  const [, block, module = path] = /^transformer_blocks\.(\d+)\.(.+)$/.exec(path) ?? [];
  const found = (block === undefined ? ENDS : BLOCK).get(module);
  if (found === undefined || block === undefined) return found;
  const key = `joint_blocks.${block}.${found.key}`;
  return module === CONTEXT_NORM && isLast ? { key, stored: "swapped" } : { ...found, key };
}

/** The inverse: diffusers' modules that the original's one stands for, which are three where it is joint. */
export function sd3Paths(module: string): string[] {
  const [, block, original = module] = /^joint_blocks\.(\d+)\.(.+)$/.exec(module) ?? [];
  const paths = [...(block === undefined ? ENDS : BLOCK)].filter(([, { key }]) => key === original);
  return paths.map(([path]) => (block === undefined ? path : `transformer_blocks.${block}.${path}`));
}

/** @param depth blocks of the transformer */
export const sd3TransformerNames =
  (prefix: string, depth: number): Names =>
  (key) => {
    if (key === "pos_embed.pos_embed") return { key: `${prefix}pos_embed` };
    const dot = key.lastIndexOf(".");
    const module = sd3Module(key.slice(0, dot), key.startsWith(`transformer_blocks.${depth - 1}.`));
    return module === undefined ? { key: prefix + key } : { ...module, key: prefix + module.key + key.slice(dot) };
  };
