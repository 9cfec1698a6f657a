/**
 * Maps parameter names of diffusers and transformers to those of checkpoints in the original Stable Diffusion layout.
 * Loading and saving share one table.
 *
 * Sources: the module names of CompVis' latent-diffusion and Stability's generative-models (UNet, VAE) and of OpenCLIP.
 */
import type { StoredParameter } from "../nn/index.js";

/** The properties of a UNet that its block numbers depend on. */
export interface UNetNumbering {
  readonly layersPerBlock: number;
  /** Of the up blocks, in diffusers' order. */
  readonly upAttends: readonly boolean[];
}

export type Names = (key: string) => StoredParameter;

const RESNET_NAMES: Readonly<Record<string, string>> = {
  norm1: "in_layers.0",
  conv1: "in_layers.2",
  time_emb_proj: "emb_layers.1",
  norm2: "out_layers.0",
  conv2: "out_layers.3",
  conv_shortcut: "skip_connection",
};

const UNET_ENDS: Readonly<Record<string, string>> = {
  conv_in: "input_blocks.0.0",
  "time_embedding.linear_1": "time_embed.0",
  "time_embedding.linear_2": "time_embed.2",
  "add_embedding.linear_1": "label_emb.0.0",
  "add_embedding.linear_2": "label_emb.0.2",
  conv_norm_out: "out.0",
  conv_out: "out.2",
  "mid_block.resnets.0": "middle_block.0",
  "mid_block.attentions.0": "middle_block.1",
  "mid_block.resnets.1": "middle_block.2",
};

/**
 * The original UNet's name of diffusers' module at `path` (a resnet, a transformer, a layer); undefined if there is
 * none.
 */
export function unetModule(path: string, { layersPerBlock, upAttends }: UNetNumbering): string | undefined {
  const end = Object.entries(UNET_ENDS).find(([name]) => path === name || path.startsWith(`${name}.`));
  if (end !== undefined) return inResnet(end[1] + path.slice(end[0].length), path.includes("resnets."));
  const [, side, block, kind, layer, rest = ""] =
    /^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(.*)$/.exec(path) ?? [];
  if (side === undefined) return undefined;
  // Each level consists of its layers, followed by the resampling (on the way up, within the last layer).
  const first = Number(block) * (layersPerBlock + 1);
  if (kind === "downsamplers") return `input_blocks.${1 + first + layersPerBlock}.0.op${rest.replace(/^\.conv/, "")}`;
  if (kind === "upsamplers")
    return `output_blocks.${first + layersPerBlock}.${upAttends[Number(block)] ? 2 : 1}${rest}`;
  const index = first + Number(layer);
  const at = side === "down" ? `input_blocks.${1 + index}` : `output_blocks.${index}`;
  return kind === "resnets" ? inResnet(`${at}.0${rest}`, true) : `${at}.1${rest}`;
}

/** The last part of a path, if it names a layer of a resnet. */
function inResnet(path: string, isResnet: boolean): string {
  return isResnet
    ? path.replace(/\.(\w+)$/, (all, name: string) => (name in RESNET_NAMES ? `.${RESNET_NAMES[name]}` : all))
    : path;
}

/** The inverse, for layers; undefined for other paths. */
export function diffusersModule(path: string, layersPerBlock: number): string | undefined {
  const end = Object.entries(UNET_ENDS).find(([, original]) => path === original);
  if (end !== undefined) return end[0];
  const [, side, number = 0, sub, rest = ""] =
    /^(input_blocks|output_blocks)\.(\d+)\.(\d)\.(.+)$/.exec(path) ?? /^(middle_block)()\.(\d)\.(.+)$/.exec(path) ?? [];
  if (side === undefined) return undefined;
  const isAttention = sub === "1";
  const layer = isAttention
    ? rest
    : (Object.entries(RESNET_NAMES).find(([, original]) => original === rest)?.[0] ?? rest);
  if (side === "middle_block")
    return `mid_block.${isAttention ? "attentions.0" : `resnets.${Number(sub) / 2}`}.${layer}`;
  const index = Number(number) - (side === "input_blocks" ? 1 : 0);
  const block = `${side === "input_blocks" ? "down" : "up"}_blocks.${Math.floor(index / (layersPerBlock + 1))}`;
  if (rest === "op") return `${block}.downsamplers.0.conv`;
  if (rest === "conv") return `${block}.upsamplers.0.conv`;
  return `${block}.${isAttention ? "attentions" : "resnets"}.${index % (layersPerBlock + 1)}.${layer}`;
}

/** Splits `<module>.weight` into the module and the rest. */
function ofModule(key: string, rename: (path: string) => string): string {
  const dot = key.lastIndexOf(".");
  return rename(key.slice(0, dot)) + key.slice(dot);
}

export const unetNames =
  (prefix: string, numbering: UNetNumbering): Names =>
  (key) => ({ key: prefix + ofModule(key, (path) => unetModule(path, numbering) ?? path) });

const VAE_ATTENTION: Readonly<Record<string, string>> = {
  group_norm: "norm",
  to_q: "q",
  to_k: "k",
  to_v: "v",
  "to_out.0": "proj_out",
  // Before diffusers 0.13.
  query: "q",
  key: "k",
  value: "v",
  proj_attn: "proj_out",
};

/** @param blocks levels of the VAE: the original numbers the decoder's in reverse */
export const vaeNames =
  (prefix: string, blocks: number): Names =>
  (key) => {
    const name = key
      .replace(/\.down_blocks\.(\d+)\.resnets\.(\d+)/, ".down.$1.block.$2")
      .replace(/\.down_blocks\.(\d+)\.downsamplers\.0/, ".down.$1.downsample")
      .replace(/\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)/, (_, block: string, kind: string, layer: string) => {
        const level = `.up.${blocks - 1 - Number(block)}`;
        return kind === "resnets" ? `${level}.block.${layer}` : `${level}.upsample`;
      })
      .replace(/\.mid_block\.resnets\.(\d)/, (_, layer: string) => `.mid.block_${Number(layer) + 1}`)
      .replace("conv_shortcut", "nin_shortcut")
      .replace("conv_norm_out", "norm_out");
    const [, before, layer, after] = /^(.*)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)$/.exec(name) ?? [];
    if (layer === undefined) return { key: prefix + name };
    const attention = { key: `${prefix}${before}.mid.attn_1.${VAE_ATTENTION[layer] ?? layer}.${after}` };
    return after === "weight" && layer !== "group_norm" ? { ...attention, stored: "conv1x1" } : attention;
  };

/** Text encoders that the original layout stores under transformers' names. */
export const clipNames =
  (prefix: string): Names =>
  (key) => ({ key: prefix + key });

const OPEN_CLIP_LAYER: Readonly<Record<string, string>> = {
  layer_norm1: "ln_1",
  layer_norm2: "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
  "self_attn.out_proj": "attn.out_proj",
};

/** A layer of either tower's transformer. @param block the layer's prefix in the file, without the last dot */
function openClipLayer(block: string, name: string, end: string): StoredParameter {
  const third = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].indexOf(name);
  if (third >= 0) return { key: `${block}.attn.in_proj_${end}`, stored: { qkv: third as 0 | 1 | 2 } };
  return { key: `${block}.${OPEN_CLIP_LAYER[name] ?? name}.${end}` };
}

const OPEN_CLIP_ENDS: Readonly<Record<string, string>> = {
  "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
  "text_model.embeddings.position_embedding.weight": "positional_embedding",
  "text_model.final_layer_norm.weight": "ln_final.weight",
  "text_model.final_layer_norm.bias": "ln_final.bias",
};

/** OpenCLIP's text tower: queries, keys and values in one matrix, the projection transposed. */
export const openClipNames =
  (prefix: string): Names =>
  (key) => {
    if (key in OPEN_CLIP_ENDS) return { key: prefix + OPEN_CLIP_ENDS[key] };
    if (key === "text_projection.weight") return { key: `${prefix}text_projection`, stored: "transposed" };
    const [, layer, name, end] = /^text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(key) ?? [];
    if (name === undefined) return { key: prefix + key };
    return openClipLayer(`${prefix}transformer.resblocks.${layer}`, name, end!);
  };

const OPEN_CLIP_VISION_ENDS: Readonly<Record<string, string>> = {
  "vision_model.embeddings.class_embedding": "class_embedding",
  "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
  "vision_model.embeddings.position_embedding.weight": "positional_embedding",
  "vision_model.pre_layrnorm.weight": "ln_pre.weight",
  "vision_model.pre_layrnorm.bias": "ln_pre.bias",
  "vision_model.post_layernorm.weight": "ln_post.weight",
  "vision_model.post_layernorm.bias": "ln_post.bias",
};

/** A whole OpenCLIP with both towers, as names of transformers' CLIPModel. */
export const openClipModelNames = (prefix: string): Names => {
  const textNames = openClipNames(prefix);
  const visual = `${prefix}visual.`;
  return (key) => {
    if (key in OPEN_CLIP_VISION_ENDS) return { key: visual + OPEN_CLIP_VISION_ENDS[key] };
    if (key === "visual_projection.weight") return { key: `${visual}proj`, stored: "transposed" };
    const [, layer, name, end] = /^vision_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(key) ?? [];
    if (name === undefined) return textNames(key);
    return openClipLayer(`${visual}transformer.resblocks.${layer}`, name, end!);
  };
};
