/**
 * Loads Stable Diffusion's parts from a diffusers folder or a single file, and what the families' loading shares. If
 * loading fails, nothing stays in memory.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject, type JsonObject } from "../base/files.js";
import { isPickle, pickleRefused } from "../base/pickle.js";
import type { Named } from "../base/registry.js";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  ModelConfigError,
  UNet2DConditionModel,
  weightFiles,
  type PretrainedOptions,
} from "../models/index.js";
import { openScheduler, SchedulerConfigError, type Scheduler } from "../schedulers/index.js";
import { SingleFile } from "../single-file/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import type { ModelOptions } from "./diffusion-model.js";
import { checkFit } from "./fit.js";
import { readModelIndex } from "./model-index.js";
import type { Parts } from "./parts.js";

const DEFAULT_SCHEDULER: Named = { name: "ddim" };

/** Remembers a part, so that it is freed if a later one fails. */
export type Hold = <T extends { dispose(): void }>(part: T) => T;

/** Loads the parts of a pipeline; if that fails, those that it held are freed. */
export function holding<T>(load: (hold: Hold) => T): T {
  const held: { dispose(): void }[] = [];
  try {
    return load((part) => {
      held.push(part);
      return part;
    });
  } catch (error) {
    for (const part of held) part.dispose();
    throw error;
  }
}

/** Loads all parts and checks that they fit. @throws InputError naming the file and every key at fault */
export function loadParts(path: string, options: ModelOptions): Parts {
  if (isPickle(path)) throw new ModelConfigError(pickleRefused(path));
  return holding((hold) => {
    const parts = path.endsWith(".safetensors") ? fromSingleFile(path, options, hold) : fromFolder(path, options, hold);
    checkFit(parts, path);
    return parts;
  });
}

/** The scheduler of a pipeline's folder. */
export function loadScheduler(folder: string, named: Named): Scheduler {
  const file = join(folder, "scheduler/scheduler_config.json");
  return openScheduler(named, readJsonObject(file, SchedulerConfigError), file);
}

function fromFolder(folder: string, options: ModelOptions, hold: Hold): Parts {
  const { scheduler: sampler = DEFAULT_SCHEDULER } = options;
  const index = readModelIndex(folder);
  const at = (part: string) => join(folder, part);
  const of = optionsOfParts(folder, options, ["unet", "vae", "text_encoder", "text_encoder_2"]);
  const scheduler = loadScheduler(folder, sampler);
  const tokenizer = CLIPTokenizer.fromPretrained(at("tokenizer"));
  const second = index.isXL && {
    tokenizer2: CLIPTokenizer.fromPretrained(at("tokenizer_2")),
    textEncoder2: hold(CLIPTextModelWithProjection.fromPretrained(at("text_encoder_2"), of("text_encoder_2"))),
  };
  return {
    index,
    scheduler,
    tokenizer,
    textEncoder: hold(CLIPTextModel.fromPretrained(at("text_encoder"), of("text_encoder"))),
    ...second,
    unet: hold(UNet2DConditionModel.fromPretrained(at("unet"), of("unet"))),
    vae: hold(AutoencoderKL.fromPretrained(at("vae"), of("vae"))),
  };
}

/** The load options of each part of a folder. @throws ModelConfigError if no part has the variant */
export function optionsOfParts(
  folder: string,
  { dtype = "float32", device = "cpu", variant }: ModelOptions,
  parts: readonly string[],
): (part: string) => PretrainedOptions {
  const has = (part: string): boolean => {
    const stem = part.startsWith("text_encoder") ? "model" : "diffusion_pytorch_model";
    try {
      return weightFiles(join(folder, part), stem, variant).length > 0;
    } catch {
      return false;
    }
  };
  if (variant !== undefined && !parts.some(has)) {
    throw new ModelConfigError(`Expected weights of the variant ${variant} in ${folder} but received none`);
  }
  return (part) => ({ dtype, device, ...(variant !== undefined && has(part) && { variant }) });
}

function fromSingleFile(file: string, options: ModelOptions, hold: Hold): Parts {
  const { dtype = "float32", device = "cpu", config, scheduler: sampler = DEFAULT_SCHEDULER } = options;
  const checkpoint = new SingleFile(file, config);
  const isXL = checkpoint.family === "sdxl";
  if (config === undefined) {
    throw new ModelConfigError(
      `Expected a folder with CLIP's tokenizer for config, since a single file has none, but received none for ${file}`,
    );
  }
  const openClip = { padToken: "!" };
  const tokenizer = tokenizerOf(config, "tokenizer", checkpoint.family === "sd2" ? openClip : {});
  const scheduler = openScheduler(sampler, checkpoint.schedulerConfig() as JsonObject, file);
  const held = { dtype, device };
  return {
    index: { isXL, forceZerosForEmptyPrompt: isXL },
    scheduler,
    tokenizer,
    textEncoder: hold(checkpoint.textEncoder(held)),
    ...(isXL && {
      tokenizer2: tokenizerOf(config, "tokenizer_2", openClip),
      textEncoder2: hold(checkpoint.textEncoder2(held)),
    }),
    unet: hold(checkpoint.unet(held)),
    vae: hold(checkpoint.vae(held)),
  };
}

/** A tokenizer of a config folder. If the folder has only one, it is used with the given padding. */
function tokenizerOf(folder: string, name: string, options: { padToken?: string }): CLIPTokenizer {
  if (existsSync(join(folder, name))) return CLIPTokenizer.fromPretrained(join(folder, name));
  const only = existsSync(join(folder, "tokenizer")) ? join(folder, "tokenizer") : folder;
  return CLIPTokenizer.fromPretrained(only, options);
}
