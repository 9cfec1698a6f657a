/**
 * Stable Diffusion 3 and 3.5 in one safetensors file, as Stability publishes them and ComfyUI and kohya's trainers write
 * them: the transformer under the names of Stability's MMDiT (sd3-names.ts), with or without the VAE and each of the three
 * text encoders.
 *
 * Such a file holds no configs and no tokenizers. Configs are inferred (sd3-infer.ts) unless a diffusers folder with them
 * is given.
 */
import type { JsonObject } from "../base/files.js";
import {
  CLIPTextModelWithProjection,
  SD3Transformer2DModel,
  T5EncoderModel,
  type AutoencoderKL,
} from "../models/index.js";
import type { WeightsOptions } from "../nn/index.js";
import { readHeader, SafetensorsError, saveSafetensors, type SafetensorsHeader } from "../safetensors/index.js";
import { Checkpoint, inTower, levelsOf, toStored } from "./checkpoint.js";
import { refuseUnknown } from "./family.js";
import { clipNames, vaeNames, type Names } from "./names.js";
import { inferProjectedClip, inferSD3Transformer, inferSD3Vae, inferT5, resolutionOf } from "./sd3-infer.js";
import { sd3TransformerNames } from "./sd3-names.js";

/** The key prefixes of the parts, by their folders' names. Of the transformer's alone, some files have none. */
const PREFIXES = {
  transformer: "model.diffusion_model.",
  vae: "first_stage_model.",
  text_encoder: "text_encoders.clip_l.transformer.",
  text_encoder_2: "text_encoders.clip_g.transformer.",
  text_encoder_3: "text_encoders.t5xxl.transformer.",
} as const;

/** A part of Stable Diffusion 3, by its folder's name. */
export type SD3PartName = keyof typeof PREFIXES;

/** Of each CLIP: OpenAI's, and OpenCLIP's. */
const ACTIVATIONS = { text_encoder: "quick_gelu", text_encoder_2: "gelu" } as const;

/** A key of the transformer, with its prefix if it has one. */
const TRANSFORMER_KEY =
  /^(model\.diffusion_model\.)?joint_blocks\.\d+\.(?:x|context)_block\.(?:attn\.(?:qkv|proj)|mlp\.fc[12]|adaLN_modulation\.1)\.(?:weight|bias)$/;

/** Keys that are not needed: CLIP's head, which ComfyUI saves with the text encoders, and what training leaves. */
const IGNORED = /^(text_encoders\.\w+\.(logit_scale|text_projection(\.weight)?)|model_sampling\..*|model_ema\..*)$/;

/** The models that a single file holds. */
export interface SD3SingleFileParts {
  readonly transformer: SD3Transformer2DModel;
  readonly vae: AutoencoderKL;
  readonly textEncoder?: CLIPTextModelWithProjection | undefined;
  readonly textEncoder2?: CLIPTextModelWithProjection | undefined;
  readonly textEncoder3?: T5EncoderModel | undefined;
}

/** The keys' prefix of the transformer; undefined for a file of other keys. */
function transformerPrefix({ tensors }: SafetensorsHeader): string | undefined {
  for (const key of tensors.keys()) {
    const found = TRANSFORMER_KEY.exec(key);
    if (found !== null) return found[1] ?? "";
  }
  return undefined;
}

/** Whether a file is such a checkpoint, damaged or not. @throws SafetensorsError, see readHeader */
export const isSD3SingleFile = (file: string): boolean => transformerPrefix(readHeader(file)) !== undefined;

/** A checkpoint of one file, see the top of this file. */
export class SD3SingleFile {
  readonly file: string;
  readonly #checkpoint: Checkpoint;
  readonly #transformerPrefix: string;

  /**
   * @param configFolder a diffusers folder whose configs replace the inferred ones
   * @param elsewhere the folders of parts that are not inside of it
   * @throws SafetensorsError for other files, keys of no part, and weights in 8 bits
   */
  constructor(file: string, configFolder?: string, elsewhere?: Partial<Record<SD3PartName, string>>) {
    this.file = file;
    this.#checkpoint = new Checkpoint(file, configFolder, elsewhere);
    const { header } = this.#checkpoint;
    const prefix = transformerPrefix(header);
    if (prefix === undefined) {
      throw new SafetensorsError(
        file,
        "Expected a checkpoint of Stable Diffusion 3 but received one without joint_blocks",
      );
    }
    this.#transformerPrefix = prefix;
    refuseEightBits(header);
    const known = Object.values({ ...PREFIXES, transformer: prefix });
    refuseUnknown(file, [...header.tensors.keys()], { known, ignored: IGNORED });
  }

  /** Whether the file holds any weights of a part that it may lack. */
  has(part: Exclude<SD3PartName, "transformer">): boolean {
    return [...this.#checkpoint.header.tensors.keys()].some((key) => key.startsWith(PREFIXES[part]));
  }

  transformer(options: WeightsOptions): SD3Transformer2DModel {
    const prefix = this.#transformerPrefix;
    const shapes = this.#checkpoint.shapes.at(prefix);
    const given = this.#checkpoint.config("transformer", () => inferSD3Transformer(shapes, this.#sampleSize()));
    const { num_layers: depth } = SD3Transformer2DModel.layout.parseConfig(given.config, given.source);
    const others = Object.values(PREFIXES).map((other) => new RegExp(`^${other.replaceAll(".", "\\.")}`));
    const place = { prefix, names: sd3TransformerNames(prefix, depth), ignore: [...others, IGNORED] };
    return this.#checkpoint.load(SD3Transformer2DModel, given, place, options);
  }

  vae(options: WeightsOptions): AutoencoderKL {
    return this.#checkpoint.vae(PREFIXES.vae, inferSD3Vae, options);
  }

  /** Without a projection in the file, it is the identity: the published files leave out that of the first CLIP. */
  clip(part: "text_encoder" | "text_encoder_2", options: WeightsOptions): CLIPTextModelWithProjection {
    const prefix = PREFIXES[part];
    const shapes = this.#checkpoint.shapes.at(prefix);
    const given = this.#checkpoint.config(part, () => inferProjectedClip(shapes, ACTIVATIONS[part]));
    const projection = "text_projection.weight";
    const isLeftOut = part === "text_encoder" && shapes.find(projection) === undefined;
    const names: Names = (key) => ({
      key: prefix + key,
      ...(isLeftOut && key === projection && { stored: "identity" }),
    });
    return this.#checkpoint.load(CLIPTextModelWithProjection, given, { prefix, names }, options);
  }

  t5(options: WeightsOptions): T5EncoderModel {
    const prefix = PREFIXES.text_encoder_3;
    const given = this.#checkpoint.config("text_encoder_3", () => inferT5(this.#checkpoint.shapes.at(prefix)));
    return this.#checkpoint.load(T5EncoderModel, given, { prefix, names: clipNames(prefix) }, options);
  }

  /** The noise schedule: that of the config folder, or of the published models. */
  schedulerConfig(): JsonObject {
    const given = this.#checkpoint.given("scheduler", "scheduler_config.json");
    return given?.config ?? { num_train_timesteps: 1000, shift: 3 };
  }

  /** Sides of the latents of the images that the file says it is for. */
  #sampleSize(): number | undefined {
    const { header, shapes } = this.#checkpoint;
    const levels = shapes.numbers(`${PREFIXES.vae}encoder.down`).length;
    const resolution = resolutionOf(header.metadata);
    return resolution === undefined || levels === 0 ? undefined : Math.floor(resolution / 2 ** (levels - 1));
  }
}

/** @throws SafetensorsError naming the dtype, how many tensors have it, and one of them */
function refuseEightBits({ file, tensors }: SafetensorsHeader): void {
  const narrow = [...tensors].filter(([, { dtype }]) => dtype.startsWith("F8_"));
  if (narrow.length === 0) return;
  const [key, { dtype }] = narrow[0]!;
  throw new SafetensorsError(
    file,
    `Expected weights in float32, float16 or bfloat16 but received ${dtype} for ${narrow.length} of ${tensors.size} ` +
      `tensors, such as ${key}; take a file without them`,
  );
}

/** Writes a pipeline's models as one file in the original layout, atomically and in their current dtype. */
export function saveSD3SingleFile(parts: SD3SingleFileParts, file: string): void {
  const { transformer, vae, textEncoder, textEncoder2, textEncoder3 } = parts;
  const { num_layers: depth, sample_size: latents } = transformer.config;
  const clip = (model: CLIPTextModelWithProjection | undefined, prefix: string) =>
    model === undefined ? [] : toStored(model, inTower(clipNames(prefix)));
  const t5 = (key: string): string => key.replace(/^encoder\.embed_tokens\./, "shared.");
  const stored = new Map([
    ...toStored(transformer, sd3TransformerNames(PREFIXES.transformer, depth)),
    ...toStored(vae, vaeNames(PREFIXES.vae, levelsOf(vae.config))),
    ...clip(textEncoder, PREFIXES.text_encoder),
    ...clip(textEncoder2, PREFIXES.text_encoder_2),
    ...(textEncoder3 === undefined
      ? []
      : toStored(textEncoder3, (key) => ({ key: PREFIXES.text_encoder_3 + t5(key) }))),
  ]);
  const side = latents * vae.downscale;
  saveSafetensors(file, stored, { format: "pt", "modelspec.resolution": `${side}x${side}` });
}
