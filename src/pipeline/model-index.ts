/** Reads and writes `model_index.json`, which names the pipeline class of a folder and the classes of its parts. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject, writeJson } from "../base/files.js";
import { show } from "../base/show.js";
import { ModelConfigError } from "../models/index.js";

export interface ModelIndex {
  /** SDXL: two text encoders, and conditioning on image sizes. */
  readonly isXL: boolean;
  /** Whether the empty prompt is encoded as zeros. */
  readonly forceZerosForEmptyPrompt: boolean;
}

export const PIPELINES: readonly unknown[] = ["StableDiffusionPipeline", "StableDiffusionXLPipeline"];

const CLASSES = {
  tokenizer: ["CLIPTokenizer", "CLIPTokenizerFast"],
  text_encoder: ["CLIPTextModel"],
  unet: ["UNet2DConditionModel"],
  vae: ["AutoencoderKL"],
};

const CLASSES_XL = {
  ...CLASSES,
  tokenizer_2: ["CLIPTokenizer", "CLIPTokenizerFast"],
  text_encoder_2: ["CLIPTextModelWithProjection"],
};

/**
 * Whether a folder has an index of one of these pipelines, or an unreadable one, for which loading reports the error.
 */
export function isStableDiffusion(folder: string): boolean {
  const file = join(folder, "model_index.json");
  if (!existsSync(file)) return false;
  try {
    return PIPELINES.includes(readJsonObject(file)["_class_name"]);
  } catch {
    return true;
  }
}

/** @throws ModelConfigError naming the file and what is wrong with it */
export function readModelIndex(folder: string): ModelIndex {
  const file = join(folder, "model_index.json");
  const index = readJsonObject(file, ModelConfigError);
  const expect = (what: string, key: string, holds: boolean): void => {
    if (holds) return;
    throw new ModelConfigError(`${file}: Expected ${what} for ${key} but received ${show(index[key])}`);
  };
  expect(PIPELINES.join(" or "), "_class_name", PIPELINES.includes(index["_class_name"]));
  const isXL = index["_class_name"] === "StableDiffusionXLPipeline";
  for (const [part, classes] of Object.entries(isXL ? CLASSES_XL : CLASSES)) {
    const pair = index[part]; // [library, class]
    expect(`a ${classes[0]}`, part, Array.isArray(pair) && classes.includes(pair[1] as string));
  }
  // diffusers does this by default, and only for a missing prompt. Here the folder must ask for it, and "" counts as
  // missing.
  return { isXL, forceZerosForEmptyPrompt: isXL && index["force_zeros_for_empty_prompt"] === true };
}

/** Writes the index of a folder with the parts of a pipeline. */
export function writeModelIndex(
  folder: string,
  { isXL, forceZerosForEmptyPrompt }: ModelIndex,
  scheduler: unknown,
): void {
  const classes = Object.entries(isXL ? CLASSES_XL : CLASSES).map(([part, [name]]): [string, unknown] => [
    part,
    [/^(tokenizer|text_encoder)/.test(part) ? "transformers" : "diffusers", name],
  ]);
  const index = {
    _class_name: isXL ? "StableDiffusionXLPipeline" : "StableDiffusionPipeline",
    ...(isXL
      ? { force_zeros_for_empty_prompt: forceZerosForEmptyPrompt }
      : { feature_extractor: [null, null], safety_checker: [null, null], requires_safety_checker: false }),
    ...(Object.fromEntries(classes) as object),
    scheduler: ["diffusers", scheduler],
  };
  writeJson(join(folder, "model_index.json"), index);
}
