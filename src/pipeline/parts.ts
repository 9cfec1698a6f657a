/**
 * The parts of a pipeline, from a diffusers folder or a single file, and into a folder. Whatever goes wrong, nothing is
 * left half-loaded in memory or half-written on disk.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  ModelConfigError,
  isPickle,
  pickleRefused,
  UNet2DConditionModel,
  weightFiles,
  type PretrainedOptions,
} from "../models/index.js";
import { DDIMScheduler } from "../schedulers/index.js";
import { SingleFile } from "../single-file/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import type { Device, DType } from "../torch/index.js";
import { checkFit } from "./fit.js";
import { readModelIndex, writeModelIndex, type ModelIndex } from "./model-index.js";

export interface PipelineOptions {
  /** What weights are held in; latents and predictions are float32 always. Default float32. */
  readonly dtype?: DType;
  /** What forward passes compute in. Default: `computeDtype` of the weights' dtype. */
  readonly computeDtype?: DType;
  readonly device?: Device;
  /** Weights of another form beside the plain ones, as "fp16"; parts that have none take the plain ones. */
  readonly variant?: string;
  /**
   * For a single file, which has neither: a diffusers folder with tokenizers, and configs that count instead of those
   * inferred. A folder with a tokenizer alone will do.
   */
  readonly config?: string;
}

export interface Parts {
  readonly index: ModelIndex;
  readonly tokenizer: CLIPTokenizer;
  readonly textEncoder: CLIPTextModel;
  readonly tokenizer2?: CLIPTokenizer;
  readonly textEncoder2?: CLIPTextModelWithProjection;
  readonly unet: UNet2DConditionModel;
  readonly vae: AutoencoderKL;
  readonly scheduler: DDIMScheduler;
}

/** @throws an error naming the file, and each key of it that is at fault */
export function loadParts(path: string, options: PipelineOptions): Parts {
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

function fromFolder(folder: string, options: PipelineOptions, hold: Hold): Parts {
  const index = readModelIndex(folder);
  const at = (part: string) => join(folder, part);
  const of = variantOf(folder, options);
  const scheduler = DDIMScheduler.fromPretrained(at("scheduler"));
  const tokenizer = CLIPTokenizer.fromPretrained(at("tokenizer"));
  const second = index.isXL && {
    tokenizer2: CLIPTokenizer.fromPretrained(at("tokenizer_2")),
    textEncoder2: hold(CLIPTextModelWithProjection.fromPretrained(at("text_encoder_2"), of("text_encoder_2", "model"))),
  };
  return {
    ...{ index, scheduler, tokenizer },
    textEncoder: hold(CLIPTextModel.fromPretrained(at("text_encoder"), of("text_encoder", "model"))),
    ...second,
    unet: hold(UNet2DConditionModel.fromPretrained(at("unet"), of("unet", "diffusion_pytorch_model"))),
    vae: hold(AutoencoderKL.fromPretrained(at("vae"), of("vae", "diffusion_pytorch_model"))),
  };
}

/** The options of each part. @throws ModelConfigError when no part at all has the variant */
function variantOf(
  folder: string,
  { dtype = "float32", device = "cpu", variant }: PipelineOptions,
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

function fromSingleFile(file: string, options: PipelineOptions, hold: Hold): Parts {
  const { dtype = "float32", device = "cpu", config } = options;
  const checkpoint = new SingleFile(file, config);
  const isXL = checkpoint.family === "sdxl";
  if (config === undefined) {
    throw new ModelConfigError(
      `Expected a folder with CLIP's tokenizer for config, since a single file has none, but received none for ${file}`,
    );
  }
  const openClip = { padToken: "!" };
  const tokenizer = tokenizerOf(config, "tokenizer", checkpoint.family === "sd2" ? openClip : {});
  const scheduler = DDIMScheduler.fromConfig(checkpoint.schedulerConfig(), file);
  const held = { dtype, device };
  return {
    index: { isXL, forceZerosForEmptyPrompt: isXL },
    ...{ scheduler, tokenizer },
    textEncoder: hold(checkpoint.textEncoder(held)),
    ...(isXL && {
      tokenizer2: tokenizerOf(config, "tokenizer_2", openClip),
      textEncoder2: hold(checkpoint.textEncoder2(held)),
    }),
    unet: hold(checkpoint.unet(held)),
    vae: hold(checkpoint.vae(held)),
  };
}

/** A tokenizer of a config folder; where there is only one, it serves with the padding that is asked for. */
function tokenizerOf(folder: string, name: string, options: { padToken?: string }): CLIPTokenizer {
  if (existsSync(join(folder, name))) return CLIPTokenizer.fromPretrained(join(folder, name));
  const only = existsSync(join(folder, "tokenizer")) ? join(folder, "tokenizer") : folder;
  return CLIPTokenizer.fromPretrained(only, options);
}

/** @throws ModelConfigError when there is something in the folder, or it is a file */
export function expectNewFolder(folder: string): void {
  if (existsSync(folder) && !(statSync(folder).isDirectory() && readdirSync(folder).length === 0)) {
    throw new ModelConfigError(`Expected an empty or new folder to write a model to but received ${folder}`);
  }
}

/**
 * Writes a diffusers folder; it appears whole or not at all.
 *
 * @throws ModelConfigError when there is something in the folder
 */
export function saveParts(parts: Parts, folder: string): void {
  expectNewFolder(folder);
  const target = resolve(folder);
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.tmp`);
  const at = (part: string) => join(temporary, part);
  try {
    mkdirSync(temporary, { recursive: true });
    parts.unet.savePretrained(at("unet"));
    parts.vae.savePretrained(at("vae"));
    parts.textEncoder.savePretrained(at("text_encoder"));
    parts.tokenizer.savePretrained(at("tokenizer"));
    parts.textEncoder2?.savePretrained(at("text_encoder_2"));
    parts.tokenizer2?.savePretrained(at("tokenizer_2"));
    mkdirSync(at("scheduler"));
    const scheduler = { _class_name: "DDIMScheduler", ...parts.scheduler.config };
    writeFileSync(join(at("scheduler"), "scheduler_config.json"), `${JSON.stringify(scheduler, null, 2)}\n`);
    writeModelIndex(temporary, parts.index);
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}
