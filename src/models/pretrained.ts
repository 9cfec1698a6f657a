/**
 * Models from and to folders in diffusers' and transformers' layout: `config.json` beside safetensors weights, in one
 * file or in shards with an index.
 */
import { existsSync, mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Weights, type CheckpointOptions, type Module, type WeightsOptions } from "../nn/index.js";
import { saveSafetensors } from "../safetensors/index.js";
import type { Generator } from "../torch/index.js";
import { ModelConfigError, readJsonObject, show } from "./config.js";
import { pickleRefused } from "../base/pickle.js";

export interface PretrainedOptions extends WeightsOptions {
  /** Take `model.fp16.safetensors` and the like instead of `model.safetensors`. */
  readonly variant?: string;
}

export interface RandomOptions extends WeightsOptions {
  readonly generator: Generator;
}

/** How one class of model is made and kept; each model file has one. */
export interface ModelLayout<M extends Module> {
  readonly className: string;
  /** The weights' name without extension: diffusers and transformers differ. */
  readonly stem: "diffusion_pytorch_model" | "model";
  /** Builds the model: checks the config and takes every parameter from the weights. */
  readonly build: (config: object, weights: Weights, source: string) => M;
  /** Checkpoint keys that are rightly left unread. */
  readonly ignore?: readonly RegExp[];
}

/**
 * Loads a model from a folder.
 *
 * @throws ModelConfigError or SafetensorsError naming the file and each key at fault
 */
export function loadModel<M extends Module>(
  layout: ModelLayout<M>,
  folder: string,
  { variant, ...options }: PretrainedOptions = {},
): M {
  const file = join(folder, "config.json");
  const config = readJsonObject(file);
  const className = config._class_name ?? layout.className;
  if (className !== layout.className) {
    throw new ModelConfigError(
      `${file}: Expected ${layout.className} for _class_name but received ${JSON.stringify(className)}`,
    );
  }
  return loadModelFrom(layout, { config, source: file, files: weightFiles(folder, layout.stem, variant) }, options);
}

/** A config, where it is from, and the files of its weights. */
export interface ModelSource {
  readonly config: object;
  /** Named in errors about the config. */
  readonly source: string;
  readonly files: readonly string[];
}

/**
 * Makes a model of a config and weights wherever they are. A model that fails to load leaves nothing in memory.
 *
 * @throws ModelConfigError or SafetensorsError naming the file and each key at fault
 */
export function loadModelFrom<M extends Module>(
  layout: ModelLayout<M>,
  { config, source, files }: ModelSource,
  options: CheckpointOptions = {},
): M {
  const weights = Weights.fromSafetensors(files, options);
  try {
    const model = layout.build(config, weights, source);
    weights.finish(layout.ignore ? { ignore: layout.ignore } : {});
    return model;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

/** Makes a model of freshly drawn weights. */
export function randomModel<M extends Module>(
  layout: ModelLayout<M>,
  config: object,
  { generator, ...options }: RandomOptions,
): M {
  return layout.build(config, Weights.random(generator, options), layout.className);
}

/** Writes a folder that `loadModel`, diffusers and transformers read; each file appears whole or not at all. */
export function saveModel<M extends Module & { readonly config: object }>(
  layout: ModelLayout<M>,
  model: M,
  folder: string,
): void {
  mkdirSync(folder, { recursive: true });
  saveSafetensors(join(folder, `${layout.stem}.safetensors`), model.parameters(), { format: "pt" });
  const file = join(folder, "config.json");
  const temporary = `${file}.${process.pid}.tmp`;
  const classKey = layout.stem === "model" ? { architectures: [layout.className] } : { _class_name: layout.className };
  writeFileSync(temporary, `${JSON.stringify({ ...classKey, ...model.config }, null, 2)}\n`);
  renameSync(temporary, file);
}

/**
 * The safetensors files of a model folder: one, or the shards that an index names.
 *
 * @throws ModelConfigError when there are none, with what the folder should hold
 */
export function weightFiles(folder: string, stem: string, variant?: string): string[] {
  const base = variant === undefined ? stem : `${stem}.${variant}`;
  const single = join(folder, `${base}.safetensors`);
  if (existsSync(single)) return [single];
  const index = [`${stem}.safetensors.index${variant === undefined ? "" : `.${variant}`}.json`]
    .map((name) => join(folder, name))
    .find((file) => existsSync(file));
  if (index === undefined) {
    const pickled = [`${base}.bin`, `${base}.ckpt`, "pytorch_model.bin"].find((name) => existsSync(join(folder, name)));
    if (pickled !== undefined) throw new ModelConfigError(pickleRefused(join(folder, pickled)));
    const variants = variantsIn(folder, stem);
    const received =
      variants.length === 0 ? "a folder without it" : `one with the variant ${variants.join(", ")} alone`;
    throw new ModelConfigError(`Expected ${base}.safetensors in ${folder} but received ${received}`);
  }
  const map = readJsonObject(index).weight_map;
  if (typeof map !== "object" || map === null || Object.keys(map).length === 0) {
    throw new ModelConfigError(`${index}: Expected keys and their files for weight_map but received ${show(map)}`);
  }
  const names = [...new Set(Object.values(map as Record<string, unknown>))];
  return names.map((name) => {
    // A shard lies beside its index; anything else in its place could point out of the folder.
    if (typeof name !== "string" || /[/\\]/.test(name)) {
      throw new ModelConfigError(`${index}: Expected file names in weight_map but received ${show(name)}`);
    }
    return join(folder, name);
  });
}

/** Under which further names the weights of a folder are there, such as `fp16`. */
function variantsIn(folder: string, stem: string): string[] {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  const pattern = new RegExp(`^${stem}(?:\\.(\\w+)\\.safetensors|\\.safetensors\\.index\\.(\\w+)\\.json)$`);
  return names.flatMap((name) => pattern.exec(name)?.slice(1).filter(Boolean) ?? []);
}
