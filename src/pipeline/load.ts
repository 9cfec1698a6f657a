/**
 * Loads Stable Diffusion's parts from a diffusers folder or a single file. If loading fails, nothing stays in memory.
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
import { openScheduler, SchedulerConfigError } from "../schedulers/index.js";
import { SingleFile } from "../single-file/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import type { ModelOptions } from "./diffusion-model.js";
import { checkFit } from "./fit.js";
import { readModelIndex } from "./model-index.js";
import type { Parts } from "./parts.js";

const DEFAULT_SCHEDULER: Named = { name: "ddim" };

/** Loads all parts and checks that they fit. @throws InputError naming the file and every key at fault */
export function loadParts(path: string, options: ModelOptions): Parts {
  if (isPickle(path)) throw new ModelConfigError(pickleRefused(path));
  const loaded: { dispose(): void }[] = [];
  const hold = <T extends { dispose(): void }>(model: T): T => {
    loaded.push(model);
    return model;
  };
  try {
    const parts = path.endsWith(".safetensors") ? fromSingleFile(path, options, hold) : fromFolder(path, options, hold);
    checkFit(parts, path);
    return parts;
  } catch (error) {
    for (const model of loaded) model.dispose();
    throw error;
  }
}

type Hold = <T extends { dispose(): void }>(model: T) => T;

function fromFolder(folder: string, options: ModelOptions, hold: Hold): Parts {
  const { scheduler: sampler = DEFAULT_SCHEDULER } = options;
  const index = readModelIndex(folder);
  const at = (part: string) => join(folder, part);
  const of = variantOf(folder, options);
  const schedulerFile = join(folder, "scheduler/scheduler_config.json");
  const scheduler = openScheduler(sampler, readJsonObject(schedulerFile, SchedulerConfigError), schedulerFile);
  const tokenizer = CLIPTokenizer.fromPretrained(at("tokenizer"));
  const second = index.isXL && {
    tokenizer2: CLIPTokenizer.fromPretrained(at("tokenizer_2")),
    textEncoder2: hold(CLIPTextModelWithProjection.fromPretrained(at("text_encoder_2"), of("text_encoder_2", "model"))),
  };
  return {
    index,
    scheduler,
    tokenizer,
    textEncoder: hold(CLIPTextModel.fromPretrained(at("text_encoder"), of("text_encoder", "model"))),
    ...second,
    unet: hold(UNet2DConditionModel.fromPretrained(at("unet"), of("unet", "diffusion_pytorch_model"))),
    vae: hold(AutoencoderKL.fromPretrained(at("vae"), of("vae", "diffusion_pytorch_model"))),
  };
}

/** The load options of each part. @throws ModelConfigError if no part has the variant */
function variantOf(
  folder: string,
  { dtype = "float32", device = "cpu", variant }: ModelOptions,
): (part: string, stem: string) => PretrainedOptions {
  const has = (part: string, stem: string): boolean => {
    try {
      return weightFiles(join(folder, part), stem, variant).length > 0;
    } catch {
      return false;
    }
  };
  const parts = [["unet", "diffusion_pytorch_model"] as const, ["vae", "diffusion_pytorch_model"] as const];
  const texts = ["text_encoder", "text_encoder_2"].map((part) => [part, "model"] as const);
  if (variant !== undefined && ![...parts, ...texts].some(([part, stem]) => has(part, stem))) {
    throw new ModelConfigError(`Expected weights of the variant ${variant} in ${folder} but received none`);
  }
  return (part, stem) => ({ dtype, device, ...(variant !== undefined && has(part, stem) && { variant }) });
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
