/**
 * The names of LoRA layers in files: PEFT's under diffusers' prefixes, diffusers' older ones, and kohya's, in which
 * dots of a path are underscores, and which for SDXL follow the original UNet's block numbers.
 *
 * Sources: what diffusers' loaders, kohya's networks/lora.py, ComfyUI and AUTOMATIC1111 read.
 */
import { diffusersModule, unetModule } from "../single-file/index.js";

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
  /** The layer's path in the part, in diffusers' and transformers' names. */
  readonly path: string;
  readonly value: "a" | "b" | "alpha";
}

/** Layers in a resnet or attention block of the UNet before anything else changes. */
const UNET_LAYERS_PER_BLOCK = 2;
const SDXL_UP_ATTENDS = [true, true, false];

const HALVES: Readonly<Record<string, LoraKey["value"]>> = { A: "a", B: "b", down: "a", up: "b" };

const PEFT_KEY =
  /^(?:((?:unet|transformer|text_encoder)(?:_\d+)?)\.|base_model\.model\.)?(.+?)(?:\.lora_([AB])(?:\.\w+)?\.weight|\.(alpha))$/;

/** diffusers before 0.22: `...processor.to_q_lora.down.weight`, `....to_q.lora.down.weight`. */
const OLDER_KEY =
  /^(?:(unet|text_encoder|text_encoder_2)\.)?(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight$/;

const KOHYA_KEY = /^lora_(unet|te|te1|te2)_([^.]+)\.(?:lora_(down|up)\.weight|(alpha))$/;

const KOHYA_PARTS: Readonly<Record<string, LoraPart>> = {
  unet: "unet",
  te: "text_encoder",
  te1: "text_encoder",
  te2: "text_encoder_2",
};

/**
 * Parses a key of any known format; undefined for other keys.
 *
 * @param unnamed the part of keys that name none, unless their path is that of a text encoder
 */
export function parseLoraKey(key: string, unnamed: LoraPart = "unet"): LoraKey | undefined {
  const partOf = (prefix: string | undefined, path: string): LoraPart =>
    prefix ?? (path.startsWith("text_model.") && unnamed === "unet" ? "text_encoder" : unnamed);

  const [, prefix, name, kohyaHalf, kohyaAlpha] = KOHYA_KEY.exec(key) ?? [];
  if (name !== undefined) {
    const part = KOHYA_PARTS[prefix!]!;
    const path = kohyaPath(name);
    if (path === undefined) return undefined;
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

/**
 * The name of a layer in kohya's format, to which `.lora_down.weight`, `.lora_up.weight` and `.alpha` are appended.
 * Undefined for layers outside Stable Diffusion 1, 2 and XL.
 *
 * @param isXL for SDXL, which uses the original UNet's names and has two text encoders
 */
export function kohyaName(
  part: LoraPart,
  path: string,
  isXL: boolean,
  layersPerBlock = UNET_LAYERS_PER_BLOCK,
): string | undefined {
  const underscored = (name: string): string => name.replaceAll(".", "_");
  switch (part) {
    case "unet": {
      // AUTOMATIC1111 accepts diffusers' names only for SD 1 and 2; ComfyUI accepts either.
      const own = isXL ? unetModule(path, { layersPerBlock, upAttends: SDXL_UP_ATTENDS }) : path;
      return own === undefined ? undefined : `lora_unet_${underscored(own)}`;
    }
    case "text_encoder":
    case "text_encoder_2": {
      const prefix = part === "text_encoder_2" ? "lora_te2" : isXL ? "lora_te1" : "lora_te";
      return `${prefix}_${underscored(/^text_(model|projection)/.test(path) ? path : `text_model.${path}`)}`;
    }
    default:
      return undefined;
  }
}

/** All names with underscores that occur in paths, to distinguish their underscores from dots. The longest first. */
const SEGMENTS = `
  down_blocks up_blocks mid_block input_blocks output_blocks middle_block transformer_blocks
  attentions resnets downsamplers upsamplers attn1 attn2 to_q to_k to_v to_out proj_in proj_out ff net proj
  time_emb_proj conv_shortcut conv1 conv2 conv conv_in conv_out in_layers emb_layers out_layers op
  skip_connection time_embedding add_embedding linear_1 linear_2 time_embed label_emb out
  text_projection text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2`
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
  return /^(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\./.test(path)
    ? diffusersModule(path, UNET_LAYERS_PER_BLOCK)
    : path;
}
