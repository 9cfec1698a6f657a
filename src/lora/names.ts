/**
 * The names of LoRA layers in files: PEFT's under diffusers' prefixes, diffusers' older ones, and kohya's, in which a
 * path's dots are underscores and which for SDXL count the original UNet's blocks.
 *
 * Sources: what diffusers' loaders, kohya's networks/lora.py, ComfyUI and AUTOMATIC1111 read.
 */
import { diffusersModule, unetModule } from "../single-file/index.js";

/** The models of a pipeline that a LoRA can change, by their folders' names. */
export type LoraPart = "unet" | "text_encoder" | "text_encoder_2";

/** `peft` is diffusers' and PEFT's, `kohya` what ComfyUI and AUTOMATIC1111 take. */
export type LoraForm = "peft" | "kohya";

/** What a key of a file holds. */
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

const halves: Readonly<Record<string, LoraKey["value"]>> = { A: "a", B: "b", down: "a", up: "b" };

/** Without a prefix the keys are those of one model: the UNet, or a text encoder, whose layers lie under `text_model`. */
const partOf = (prefix: string | undefined, path: string): LoraPart =>
  (prefix as LoraPart | undefined) ?? (path.startsWith("text_model.") ? "text_encoder" : "unet");

const peftKey =
  /^(?:(unet|text_encoder|text_encoder_2)\.|base_model\.model\.)?(.+?)(?:\.lora_([AB])(?:\.\w+)?\.weight|\.(alpha))$/;

/** diffusers before 0.22: `...processor.to_q_lora.down.weight`, `....to_q.lora.down.weight`. */
const olderKey =
  /^(?:(unet|text_encoder|text_encoder_2)\.)?(.+?)(?:_lora|\.lora|\.lora_linear_layer)\.(down|up)\.weight$/;

const kohyaKey = /^lora_(unet|te|te1|te2)_([^.]+)\.(?:lora_(down|up)\.weight|(alpha))$/;

const kohyaParts: Readonly<Record<string, LoraPart>> = {
  unet: "unet",
  te: "text_encoder",
  te1: "text_encoder",
  te2: "text_encoder_2",
};

/** Reads a key of any form; undefined when it is of none. */
export function parseLoraKey(key: string): LoraKey | undefined {
  const [, prefix, name, kohyaHalf, kohyaAlpha] = kohyaKey.exec(key) ?? [];
  if (name !== undefined) {
    const part = kohyaParts[prefix!]!;
    const path = kohyaPath(name);
    if (path === undefined) return undefined;
    return { form: "kohya", part, path, value: kohyaAlpha === undefined ? halves[kohyaHalf!]! : "alpha" };
  }
  const [, olderPart, olderPath, olderHalf] = olderKey.exec(key) ?? [];
  if (olderPath !== undefined) {
    const part = partOf(olderPart, olderPath);
    const path = olderPath.replace(/\.processor\./, ".");
    // A text encoder's projections had the names of a UNet's.
    const own =
      part === "unet"
        ? path.replace(/\.to_out$/, ".to_out.0")
        : path.replace(/\.to_(q|k|v|out)$/, (_, name: string) => `.${name}_proj`);
    return { form: "peft", part, path: own, value: halves[olderHalf!]! };
  }
  const [, peftPrefix, path, half, alpha] = peftKey.exec(key) ?? [];
  if (path === undefined) return undefined;
  return { form: "peft", part: partOf(peftPrefix, path), path, value: alpha === undefined ? halves[half!]! : "alpha" };
}

/** The key of a layer's A or B in PEFT's form. */
export const peftName = (part: LoraPart, path: string, half: "A" | "B"): string =>
  `${part}.${path}.lora_${half}.weight`;

/**
 * The name of a layer in kohya's form, to which `.lora_down.weight`, `.lora_up.weight` and `.alpha` are added.
 *
 * @param isXL of SDXL: names of the original UNet, and two text encoders
 */
export function kohyaName(part: LoraPart, path: string, isXL: boolean, layersPerBlock = UNET_LAYERS_PER_BLOCK): string {
  if (part === "unet") {
    // AUTOMATIC1111 knows diffusers' names for SD 1 and 2 alone; ComfyUI takes either.
    const own = isXL ? unetModule(path, { layersPerBlock, upAttends: SDXL_UP_ATTENDS }) : path;
    return `lora_unet_${own.replaceAll(".", "_")}`;
  }
  const prefix = part === "text_encoder_2" ? "lora_te2" : isXL ? "lora_te1" : "lora_te";
  const own = /^text_(model|projection)/.test(path) ? path : `text_model.${path}`;
  return `${prefix}_${own.replaceAll(".", "_")}`;
}

/** Every name that occurs in a path, so that underscores which stand for dots can be told from those of names. */
const segments = [
  ..."down_blocks up_blocks mid_block input_blocks output_blocks middle_block transformer_blocks".split(" "),
  ..."attentions resnets downsamplers upsamplers attn1 attn2 to_q to_k to_v to_out proj_in proj_out ff net proj".split(
    " ",
  ),
  ..."time_emb_proj conv_shortcut conv1 conv2 conv conv_in conv_out in_layers emb_layers out_layers op".split(" "),
  ..."skip_connection time_embedding add_embedding linear_1 linear_2 time_embed label_emb out".split(" "),
  ..."text_projection text_model encoder layers self_attn q_proj k_proj v_proj out_proj mlp fc1 fc2".split(" "),
].sort((a, b) => b.length - a.length);
const segment = new RegExp(`(${segments.join("|")}|\\d+)(?:_|$)`, "y");

/** `down_blocks_0_attentions_1_proj_in` as `down_blocks.0.attentions.1.proj_in`; undefined for names unknown here. */
function kohyaPath(name: string): string | undefined {
  const found: string[] = [];
  segment.lastIndex = 0;
  let end = 0;
  while (end < name.length) {
    const match = segment.exec(name);
    if (match === null) return undefined;
    found.push(match[1]!);
    end = segment.lastIndex;
  }
  const path = found.join(".");
  return /^(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)\./.test(path)
    ? diffusersModule(path, UNET_LAYERS_PER_BLOCK)
    : path;
}
