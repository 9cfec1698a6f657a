/**
 * The keys of LoRA files: PEFT's under diffusers' prefixes, diffusers' older ones, and kohya's, in which dots of a path are
 * underscores, and which for SDXL and Stable Diffusion 3 follow the original's names (kohya.ts).
 *
 * Sources: what diffusers' loaders, kohya's networks/lora.py and networks/lora_sd3.py, ComfyUI and AUTOMATIC1111 read.
 */
import { diffusersModule, sd3Paths } from "../single-file/index.js";

/**
 * The model of a pipeline that a LoRA adapts, by its folder's name: `unet`, `transformer` (Stable Diffusion 3, Flux),
 * `text_encoder`, `text_encoder_2` and so on.
 */
export type LoraPart = string;

/** File formats: `peft` is diffusers' and PEFT's, `kohya` is used by ComfyUI and AUTOMATIC1111. */
export type LoraForm = "peft" | "kohya";

/** What a key of a file means. */
export interface LoraKey {
  readonly form: LoraForm;
  readonly part: LoraPart;
  /**
   * The layer's path in the part, in diffusers' and transformers' names; for a transformer of kohya's those of Stability's
   * MMDiT, one of which may stand for three layers.
   */
  readonly path: string;
  readonly value: "a" | "b" | "alpha";
}

/** Layers in a resnet or attention block of the UNet before anything else changes. */
export const UNET_LAYERS_PER_BLOCK = 2;

const HALVES: Readonly<Record<string, LoraKey["value"]>> = { A: "a", B: "b", down: "a", up: "b" };

const PEFT_KEY =
  /^(?:((?:unet|transformer|text_encoder)(?:_\d+)?)\.|base_model\.model\.)?(.+?)(?:\.lora_([AB])(?:\.\w+)?\.weight|\.(alpha))$/;

/** diffusers before 0.22: `...processor.to_q_lora.down.weight`, `....to_q.lora.down.weight`. */
const OLDER_KEY =
  /^(?:(unet|text_encoder|text_encoder_2)\.)?(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight$/;

const KOHYA_KEY = /^lora_(unet|transformer|te[123]?)_([^.]+)\.(?:lora_(down|up)\.weight|(alpha))$/;

const KOHYA_PARTS: Readonly<Record<string, LoraPart>> = {
  unet: "unet",
  transformer: "transformer",
  te: "text_encoder",
  te1: "text_encoder",
  te2: "text_encoder_2",
  te3: "text_encoder_3",
};

/**
 * Parses a key of any known format; undefined for other keys.
 *
 * @param unnamed the part of keys that name none, unless their path is that of a text encoder
 */
export function parseLoraKey(key: string, unnamed: LoraPart = "unet"): LoraKey | undefined {
  const partOf = (prefix: string | undefined, path: string): LoraPart =>
    prefix ?? (path.startsWith("text_model.") && !unnamed.startsWith("text_encoder") ? "text_encoder" : unnamed);

  const [, prefix, name, kohyaHalf, kohyaAlpha] = KOHYA_KEY.exec(key) ?? [];
  if (name !== undefined) {
    const path = kohyaPath(name);
    if (path === undefined) return undefined;
    const part = prefix === "unet" && MMDIT.test(path) ? "transformer" : KOHYA_PARTS[prefix!]!;
    return { form: "kohya", part, path, value: kohyaAlpha === undefined ? HALVES[kohyaHalf!]! : "alpha" };
  }
  const [, olderPart, olderPath, olderHalf] = OLDER_KEY.exec(key) ?? [];
  if (olderPath !== undefined) {
    const part = partOf(olderPart, olderPath);
    const path = olderPath.replace(/\.processor\./, ".");
    // Text encoders' projections used to have the UNet's names.
    const own =
      part === "unet"
        ? path.replace(/\.to_out$/, ".to_out.0")
        : path.replace(/\.to_(q|k|v|out)$/, (_, name: string) => `.${name}_proj`);
    return { form: "peft", part, path: own, value: HALVES[olderHalf!]! };
  }
  const [, peftPrefix, path, half, alpha] = PEFT_KEY.exec(key) ?? [];
  if (path === undefined) return undefined;
  return { form: "peft", part: partOf(peftPrefix, path), path, value: alpha === undefined ? HALVES[half!]! : "alpha" };
}

/** The key of a layer's A or B in PEFT's format. */
export const peftName = (part: LoraPart, path: string, half: "A" | "B"): string =>
  `${part}.${path}.lora_${half}.weight`;

/** How the original's paths begin. */
const SDXL_UNET = /^(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\./;
const MMDIT = /^((joint_blocks|[xty]_embedder|final_layer)\.|context_embedder$)/;

/** All names with underscores that occur in paths, to distinguish their underscores from dots. The longest first. */
const SEGMENTS = `
  down_blocks up_blocks mid_block input_blocks output_blocks middle_block transformer_blocks
  attentions resnets downsamplers upsamplers attn1 attn2 to_q to_k to_v to_out proj_in proj_out ff net proj
  time_emb_proj conv_shortcut conv1 conv2 conv conv_in conv_out in_layers emb_layers out_layers op
  skip_connection time_embedding add_embedding linear_1 linear_2 time_embed label_emb out
  text_projection text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2
  joint_blocks x_block context_block attn qkv adaLN_modulation final_layer linear
  x_embedder t_embedder y_embedder context_embedder
  add_q_proj add_k_proj add_v_proj to_add_out ff_context norm1 norm1_context norm_out pos_embed
  time_text_embed timestep_embedder text_embedder
  block layer SelfAttention DenseReluDense q k v o wi wi_0 wi_1 wo`
  .trim()
  .split(/\s+/)
  .sort((a, b) => b.length - a.length);
const SEGMENT = new RegExp(`(${SEGMENTS.join("|")}|\\d+)(?:_|$)`, "y");

/** `down_blocks_0_attentions_1_proj_in` to `down_blocks.0.attentions.1.proj_in`; undefined for unknown names. */
function kohyaPath(name: string): string | undefined {
  const found: string[] = [];
  SEGMENT.lastIndex = 0;
  let end = 0;
  while (end < name.length) {
    const match = SEGMENT.exec(name);
    if (match === null) return undefined;
    found.push(match[1]!);
    end = SEGMENT.lastIndex;
  }
  const path = found.join(".");
  if (SDXL_UNET.test(path)) return diffusersModule(path, UNET_LAYERS_PER_BLOCK);
  return MMDIT.test(path) && sd3Paths(path).length === 0 ? undefined : path;
}
