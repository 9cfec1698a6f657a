/**
 * Loads the parts of Stable Diffusion 3 from a diffusers folder, and writes them. Each text encoder may be missing. If
 * loading fails, nothing stays in memory.
 */
import { existsSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { readJsonObject, writeJson, type JsonObject } from "../base/files.js";
import type { Named } from "../base/registry.js";
import { show } from "../base/show.js";
import {
  AutoencoderKL,
  CLIPTextModelWithProjection,
  ModelConfigError,
  SD3Transformer2DModel,
  T5EncoderModel,
} from "../models/index.js";
import { CLIPTokenizer, JsonTokenizer } from "../tokenizer/index.js";
import type { ModelOptions } from "./diffusion-model.js";
import { holding, loadScheduler, optionsOfParts } from "./load.js";
import { saveScheduler, writeFolder } from "./save.js";
import { checkSD3Fit } from "./sd3-fit.js";
import { textParts, type ClipPart, type SD3Parts } from "./sd3-parts.js";

export const SD3_PIPELINE = "StableDiffusion3Pipeline";

/** What a config gets that names no scheduler: CPS with an eta of 0.7. */
export const FLOW_MATCH: Named = { name: "flow-match" };

const CLIP = { tokenizer: ["CLIPTokenizer", "CLIPTokenizerFast"], encoder: "CLIPTextModelWithProjection" };
const T5 = { tokenizer: ["T5TokenizerFast", "T5Tokenizer"], encoder: "T5EncoderModel" };

/** The text encoders' classes, by what follows `tokenizer` and `text_encoder` in the folders' names. */
const TEXTS = { "": CLIP, _2: CLIP, _3: T5 } as const;
const SUFFIXES = Object.keys(TEXTS) as (keyof typeof TEXTS)[];

const WEIGHTS = ["transformer", "vae", ...SUFFIXES.map((suffix) => `text_encoder${suffix}`)];

/** Whether a folder's index names the pipeline. */
export function isStableDiffusion3(folder: string): boolean {
  const file = join(folder, "model_index.json");
  try {
    return existsSync(file) && readJsonObject(file)["_class_name"] === SD3_PIPELINE;
  } catch {
    return false;
  }
}

/** Loads all parts and checks that they fit. @throws InputError naming the file and every key at fault */
export function loadSD3Parts(folder: string, options: ModelOptions): SD3Parts {
  const { texts, vae } = readSD3Index(folder);
  const of = optionsOfParts(folder, options, WEIGHTS);
  const at = (part: string) => join(folder, part);
  return holding((hold) => {
    const scheduler = loadScheduler(folder, options.scheduler ?? FLOW_MATCH);
    const clip = (suffix: "" | "_2"): ClipPart | undefined => {
      if (!texts.has(suffix)) return undefined;
      const [tokenizer, encoder] = [`tokenizer${suffix}`, `text_encoder${suffix}`];
      return {
        tokenizer: CLIPTokenizer.fromPretrained(at(tokenizer)),
        encoder: hold(CLIPTextModelWithProjection.fromPretrained(at(encoder), of(encoder))),
      };
    };
    const parts: SD3Parts = {
      scheduler,
      clips: [clip(""), clip("_2")],
      t5: texts.has("_3")
        ? {
            tokenizer: JsonTokenizer.fromPretrained(at("tokenizer_3")),
            encoder: hold(T5EncoderModel.fromPretrained(at("text_encoder_3"), of("text_encoder_3"))),
          }
        : undefined,
      transformer: hold(SD3Transformer2DModel.fromPretrained(at("transformer"), of("transformer"))),
      vae: hold(AutoencoderKL.fromPretrained(vae, of("vae"))),
    };
    checkSD3Fit(parts, folder);
    return parts;
  });
}

/** Writes a folder in diffusers' layout, atomically. @throws ModelConfigError unless it is empty or new */
export function saveSD3Parts(parts: SD3Parts, folder: string): void {
  writeFolder(folder, (temporary) => {
    parts.transformer.savePretrained(join(temporary, "transformer"));
    parts.vae.savePretrained(join(temporary, "vae"));
    const texts = textParts(parts).map(([suffix, part]): JsonObject => {
      part?.tokenizer.savePretrained(join(temporary, `tokenizer${suffix}`));
      part?.encoder.savePretrained(join(temporary, `text_encoder${suffix}`));
      const { tokenizer, encoder } = TEXTS[suffix];
      return {
        [`tokenizer${suffix}`]: part === undefined ? [null, null] : ["transformers", tokenizer[0]!],
        [`text_encoder${suffix}`]: part === undefined ? [null, null] : ["transformers", encoder],
      };
    });
    writeJson(join(temporary, "model_index.json"), {
      _class_name: SD3_PIPELINE,
      ...Object.assign({}, ...texts),
      transformer: ["diffusers", "SD3Transformer2DModel"],
      vae: ["diffusers", "AutoencoderKL"],
      scheduler: ["diffusers", saveScheduler(parts.scheduler, temporary)],
    });
  });
}

/** What a folder's index says. */
export interface SD3Index {
  /** The text encoders that it has, by what follows `text_encoder` in their folders' names. */
  readonly texts: ReadonlySet<keyof typeof TEXTS>;
  /** The folder of the VAE. */
  readonly vae: string;
}

/** Where a part lies that a folder shares with another model: `pretrained_model_name_or_path` is relative to the folder. */
const sharedPart = z.strictObject({
  pretrained_model_name_or_path: z.string().refine((path) => path !== "" && !isAbsolute(path)),
  subfolder: z.string().default(""),
});

const SHARED_EXAMPLE = { pretrained_model_name_or_path: "../other-model", subfolder: "vae" };

/**
 * Reads a folder's index. The VAE may be another model's, so that models with the same one need not each store it: after
 * library and class comes where it lies, as in the modular_model_index.json of diffusers.
 *
 * @throws ModelConfigError naming the file and what is wrong with it
 */
export function readSD3Index(folder: string): SD3Index {
  const file = join(folder, "model_index.json");
  const index = readJsonObject(file, ModelConfigError);
  const expect = (what: string, key: string, holds: boolean): void => {
    if (holds) return;
    throw new ModelConfigError(`${file}: Expected ${what} for ${key} but received ${show(index[key])}`);
  };
  const classOf = (key: string): unknown => (Array.isArray(index[key]) ? index[key][1] : index[key]); // [library, class]
  expect(SD3_PIPELINE, "_class_name", index["_class_name"] === SD3_PIPELINE);
  expect("an SD3Transformer2DModel", "transformer", classOf("transformer") === "SD3Transformer2DModel");
  expect("an AutoencoderKL", "vae", classOf("vae") === "AutoencoderKL");
  const place: unknown = Array.isArray(index["vae"]) ? index["vae"][2] : undefined;
  const { success, data: vae } = sharedPart.optional().safeParse(place);
  expect(`a relative path, as in ${show(["diffusers", "AutoencoderKL", SHARED_EXAMPLE])},`, "vae", success);
  const present = SUFFIXES.filter((suffix) => !isAbsent(index[`text_encoder${suffix}`]));
  for (const suffix of present) {
    const { tokenizer, encoder } = TEXTS[suffix];
    const [tokenizerKey, encoderKey] = [`tokenizer${suffix}`, `text_encoder${suffix}`];
    expect(`a ${encoder} or null`, encoderKey, classOf(encoderKey) === encoder);
    expect(`a ${tokenizer[0]}`, tokenizerKey, tokenizer.includes(classOf(tokenizerKey) as string));
  }
  // Without any, all prompts would be the same zeros.
  expect("at least one of three text encoders", "text_encoder", present.length > 0);
  return {
    texts: new Set(present),
    vae: vae === undefined ? join(folder, "vae") : join(folder, vae.pretrained_model_name_or_path, vae.subfolder),
  };
}

/** diffusers writes [null, null] for a part that a pipeline does without. */
const isAbsent = (part: unknown): boolean =>
  part === undefined || part === null || (Array.isArray(part) && part.every((name) => name === null));
