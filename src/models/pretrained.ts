/**
 * Loads and saves models as folders in diffusers' and transformers' layout: `config.json` beside safetensors weights,
 * in one file or in shards with an index.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { isJsonObject, readJsonObject, writeJson } from "../base/files.js";
import { pickleRefused } from "../base/pickle.js";
import { show } from "../base/show.js";
import { Module, Weights, type CheckpointOptions, type WeightsOptions } from "../nn/index.js";
import { saveSafetensors } from "../safetensors/index.js";
import type { Generator } from "../torch/index.js";
import { ModelConfigError } from "./config.js";

export interface PretrainedOptions extends WeightsOptions {
  /** Take `model.fp16.safetensors` and the like instead of `model.safetensors`. */
  readonly variant?: string;
}

export interface RandomOptions extends WeightsOptions {
  readonly generator: Generator;
}

/** How a model class is stored in a folder. */
export interface ModelLayout<Config extends object, ConfigInput extends object = object> {
  /** Value of `_class_name` in `config.json`. */
  readonly className: string;
  /** The weights' name without extension: diffusers' models have the first, transformers' the second. */
  readonly stem: "diffusion_pytorch_model" | "model";
  /**
   * Checks a config, and fills in defaults.
   *
   * @param source what to name in the error: a file, or the model
   * @throws ModelConfigError with a sentence for every key at fault
   */
  parseConfig(config: ConfigInput, source: string): Config;
  /** Checkpoint keys that need not be read. */
  readonly ignore?: readonly RegExp[];
}

/** A class that extends PretrainedModel. */
export interface ModelClass<Config extends object, ConfigInput extends object, Model> {
  readonly layout: ModelLayout<Config, ConfigInput>;
  /** Takes every parameter from the weights. */
  new (config: Config, weights: Weights): Model;
}

/** A whole model built from its config. Subclasses add a constructor and a static `layout`. */
export abstract class PretrainedModel<Config extends object> extends Module {
  readonly config: Config;

  constructor(config: Config, weights: Weights) {
    super(weights);
    this.config = config;
  }

  /** Loads a folder. @throws ModelConfigError or SafetensorsError naming the file and each key at fault */
  static fromPretrained<Config extends object, ConfigInput extends object, Model>(
    this: ModelClass<Config, ConfigInput, Model>,
    folder: string,
    { variant, ...options }: PretrainedOptions = {},
  ): Model {
    const { layout } = this;
    const { config, source } = readConfigFile(layout, folder);
    return loadModel(this, { config, source, files: weightFiles(folder, layout.stem, variant) }, options);
  }

  /** The config of a folder, without its weights. @throws ModelConfigError naming the file and each key at fault */
  static readConfig<Config extends object, ConfigInput extends object>(
    this: ModelClass<Config, ConfigInput, unknown>,
    folder: string,
  ): Config {
    const { config, source } = readConfigFile(this.layout, folder);
    return this.layout.parseConfig(config as ConfigInput, source);
  }

  /** A model of freshly drawn weights. @throws ModelConfigError naming each key at fault */
  static fromConfig<Config extends object, ConfigInput extends object, Model>(
    this: ModelClass<Config, ConfigInput, Model>,
    config: ConfigInput,
    { generator, ...options }: RandomOptions,
  ): Model {
    const parsed = this.layout.parseConfig(config, this.layout.className);
    return new this(parsed, Weights.random(generator, options));
  }

  /** Writes a folder that `fromPretrained`, diffusers and transformers read. Each file is written atomically. */
  savePretrained(folder: string): void {
    const { className, stem } = (this.constructor as unknown as ModelClass<Config, object, this>).layout;
    const classKey = stem === "model" ? { architectures: [className] } : { _class_name: className };
    saveSafetensors(join(folder, `${stem}.safetensors`), this.parameters(), { format: "pt" });
    writeJson(join(folder, "config.json"), { ...classKey, ...this.config });
  }
}

/** Reads a config that is not parsed yet, and checks its class. */
function readConfigFile({ className }: { readonly className: string }, folder: string) {
  const source = join(folder, "config.json");
  const config = readJsonObject(source, ModelConfigError);
  const received = config["_class_name"] ?? className;
  if (received !== className) {
    throw new ModelConfigError(`${source}: Expected ${className} for _class_name but received ${show(received)}`);
  }
  return { config, source };
}

/** A config, its source, and the files of the weights. */
export interface ModelSource {
  readonly config: object;
  /** Named in errors about the config. */
  readonly source: string;
  readonly files: readonly string[];
  /** Checkpoint keys that need not be read, besides those of the class. */
  readonly ignore?: readonly RegExp[];
}

/**
 * Makes a model from a config and weights. If loading fails, nothing stays in memory.
 *
 * @throws ModelConfigError or SafetensorsError naming the file and each key at fault
 */
export function loadModel<Config extends object, ConfigInput extends object, Model>(
  modelClass: ModelClass<Config, ConfigInput, Model>,
  { config, source, files, ignore = [] }: ModelSource,
  options: CheckpointOptions = {},
): Model {
  const { layout } = modelClass;
  const parsed = layout.parseConfig(config as ConfigInput, source);
  const weights = Weights.fromSafetensors(files, options);
  try {
    const model = new modelClass(parsed, weights);
    weights.finish({ ignore: [...(layout.ignore ?? []), ...ignore] });
    return model;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

/**
 * The safetensors files of a model folder: one, or the shards that an index names.
 *
 * @throws ModelConfigError if there are none, naming what the folder should contain
 */
export function weightFiles(folder: string, stem: string, variant?: string): string[] {
  const base = variant === undefined ? stem : `${stem}.${variant}`;
  const single = join(folder, `${base}.safetensors`);
  if (existsSync(single)) return [single];
  const index = join(folder, `${stem}.safetensors.index${variant === undefined ? "" : `.${variant}`}.json`);
  if (!existsSync(index)) {
    const pickled = [`${base}.bin`, `${base}.ckpt`, "pytorch_model.bin"].find((name) => existsSync(join(folder, name)));
    if (pickled !== undefined) throw new ModelConfigError(pickleRefused(join(folder, pickled)));
    const variants = variantsIn(folder, stem);
    const received =
      variants.length === 0 ? "a folder without it" : `one with the variant ${variants.join(", ")} alone`;
    throw new ModelConfigError(`Expected ${base}.safetensors in ${folder} but received ${received}`);
  }
  const map = readJsonObject(index, ModelConfigError)["weight_map"];
  if (!isJsonObject(map) || Object.keys(map).length === 0) {
    throw new ModelConfigError(`${index}: Expected keys and their files for weight_map but received ${show(map)}`);
  }
  const names = [...new Set(Object.values(map))];
  return names.map((name) => {
    // Shards lie beside their index. A path could point outside the folder, and ".." is one.
    if (typeof name !== "string" || !/^[^/\\\0]+\.safetensors$/.test(name)) {
      throw new ModelConfigError(`${index}: Expected file names in weight_map but received ${show(name)}`);
    }
    return join(folder, name);
  });
}

/** The variants, such as `fp16`, that a folder has of its weights. */
function variantsIn(folder: string, stem: string): string[] {
  const names = statSync(folder, { throwIfNoEntry: false })?.isDirectory() === true ? readdirSync(folder) : [];
  const pattern = new RegExp(`^${stem}(?:\\.(\\w+)\\.safetensors|\\.safetensors\\.index\\.(\\w+)\\.json)$`);
  return names.flatMap((name) => pattern.exec(name)?.slice(1).filter(Boolean) ?? []);
}
