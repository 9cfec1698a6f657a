/**
 * Where the parts of a CLIP are. A model is a folder in transformers' layout (config.json, model.safetensors), one in
 * OpenCLIP's (open_clip_config.json, open_clip_model.safetensors), or one safetensors file with the keys of either; what
 * it lacks of config, tokenizer and preprocessor comes from another folder, the `processor`.
 */
import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { readJsonObject } from "../base/files.js";
import { readPreprocessorConfig, type PreprocessorConfig } from "../images/index.js";
import {
  CLIPModel,
  isPickle,
  loadModel,
  ModelConfigError,
  pickleRefused,
  weightFiles,
  type CLIPConfig,
} from "../models/index.js";
import { SafetensorsFile } from "../safetensors/index.js";
import { loadOpenClip, openClipPrefix, readOpenClipConfig, type OpenClipPreprocessing } from "../single-file/index.js";
import { tidy } from "../torch/index.js";
import { RewardError } from "./error.js";
import type { Place } from "./placement.js";

const OPEN_CLIP_CONFIG = "open_clip_config.json";

/** The names of OpenCLIP's weights, by age. */
const OPEN_CLIP_WEIGHTS = ["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"];

/** The parts of a CLIP on this machine. */
export interface ClipFiles {
  readonly config: CLIPConfig;
  /** A folder with vocab.json and merges.txt. */
  readonly tokenizer: string;
  readonly preprocessor: PreprocessorConfig;
  /** exp(logit_scale) of the checkpoint, in its own precision. */
  readonly logitScale: number;
  /** @throws InputError naming the file and every key at fault */
  load(place: Place): CLIPModel;
}

/** The folder of a model, which may be a file in it. */
const folderOf = (path: string): string =>
  statSync(path, { throwIfNoEntry: false })?.isFile() === true ? dirname(path) : path;

const has = (folder: string, ...names: string[]): boolean => names.some((name) => existsSync(join(folder, name)));
const hasTokenizer = (folder: string): boolean => has(folder, "vocab.json");

/** Whether a model has all parts of its own, so that a processor adds nothing. */
export function isComplete(path: string): boolean {
  const folder = folderOf(path);
  const isConfigured = has(folder, "config.json", OPEN_CLIP_CONFIG);
  return hasTokenizer(folder) && isConfigured && has(folder, "preprocessor_config.json", OPEN_CLIP_CONFIG);
}

/**
 * Finds the parts of a CLIP and checks its config, without loading weights.
 *
 * @param path a folder or a file, see the top of this file
 * @param processor where the rest comes from
 * @throws InputError naming what is missing or wrong
 */
export function locateClip(path: string, processor?: string): ClipFiles {
  if (isPickle(path)) throw new RewardError(pickleRefused(path));
  const folder = folderOf(path);
  const files = folder === path ? weightsIn(folder) : [path];
  const prefix = files.length === 1 ? openClipPrefix(files[0]!) : undefined;
  const found = configOf(path, [folder, processor], prefix !== undefined);
  const { config: input, source, preprocessing } = found;
  const config = CLIPModel.layout.parseConfig(input, source);
  return {
    config,
    tokenizer: tokenizerOf(path, folder, processor),
    preprocessor: preprocessorOf([folder, processor], preprocessing, config.vision_config.image_size),
    logitScale: logitScaleIn(files, prefix ?? ""),
    load: (place) =>
      prefix === undefined
        ? loadModel(CLIPModel, { config: input, source, files }, place)
        : loadOpenClip(files[0]!, { config: input, source, prefix }, place),
  };
}

/** The weights of a folder: transformers' if it has both. */
function weightsIn(folder: string): string[] {
  const [open] = OPEN_CLIP_WEIGHTS.map((name) => join(folder, name)).filter((file) => existsSync(file));
  const hasOwn = has(folder, "model.safetensors", "model.safetensors.index.json");
  if (open !== undefined && !hasOwn) return [open];
  const pickle = join(folder, "open_clip_pytorch_model.bin");
  if (!hasOwn && existsSync(pickle)) throw new RewardError(pickleRefused(pickle));
  return weightFiles(folder, "model");
}

interface FoundConfig {
  readonly config: object;
  readonly source: string;
  /** Of OpenCLIP's config. */
  readonly preprocessing?: OpenClipPreprocessing;
}

/** The first config of the folders; OpenCLIP's own counts only for weights with its keys. */
function configOf(path: string, folders: readonly (string | undefined)[], isOpenClip: boolean): FoundConfig {
  for (const folder of folders) {
    if (folder === undefined) continue;
    const [own, plain] = [join(folder, OPEN_CLIP_CONFIG), join(folder, "config.json")];
    if (isOpenClip && existsSync(own)) {
      const { model, preprocessing } = readOpenClipConfig(own);
      return { config: model, source: own, preprocessing };
    }
    if (existsSync(plain)) return { config: readJsonObject(plain, ModelConfigError), source: plain };
  }
  const names = isOpenClip ? `${OPEN_CLIP_CONFIG} or config.json` : "config.json";
  throw new RewardError(`Expected ${names} with ${path} but received neither there nor in a processor`);
}

function tokenizerOf(path: string, folder: string, processor: string | undefined): string {
  if (hasTokenizer(folder)) return folder;
  if (processor !== undefined) return processor;
  throw new RewardError(
    `Expected a tokenizer (vocab.json and merges.txt) with ${path} but received none; name a CLIP that has one as the ` +
      "reward's processor, such as laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
  );
}

/** That of the first folder that has one, else that of OpenCLIP's config, else OpenAI's. */
function preprocessorOf(
  folders: readonly [string, string | undefined],
  preprocessing: OpenClipPreprocessing | undefined,
  imageSize: number,
): PreprocessorConfig {
  const [own, processor] = folders;
  const hasOwn = has(own, "preprocessor_config.json");
  if (preprocessing !== undefined && !hasOwn) return fromOpenClip(preprocessing);
  return readPreprocessorConfig(processor !== undefined && !hasOwn ? processor : own, { imageSize });
}

/** PIL's numbers of the filters. */
const RESAMPLE = { bicubic: 3, bilinear: 2 } as const;

function fromOpenClip(preprocessing: OpenClipPreprocessing): PreprocessorConfig {
  const { height, width, mean, std, interpolation, squash } = preprocessing;
  return {
    do_resize: true,
    size: squash ? { height, width } : { shortest_edge: Math.max(height, width) },
    resample: RESAMPLE[interpolation],
    do_center_crop: true,
    crop_size: { height, width },
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [...mean],
    image_std: [...std],
  };
}

/** Read from the file, because half precision would round it by percents after exp. */
function logitScaleIn(names: readonly string[], prefix: string): number {
  const key = `${prefix}logit_scale`;
  for (const name of names) {
    const file = new SafetensorsFile(name);
    if (file.header.tensors.has(key)) return Math.exp(tidy(() => file.tensor(key, { dtype: "float32" }).item()));
  }
  throw new RewardError(`Expected ${key} in ${names.join(", ")} but received none`);
}
