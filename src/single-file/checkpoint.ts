/** What all checkpoints of one file share: the configs of their parts, loading a part, and writing one. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject, type JsonObject } from "../base/files.js";
import {
  AutoencoderKL,
  loadModel,
  ModelConfigError,
  type AutoencoderKLConfig,
  type ModelClass,
} from "../models/index.js";
import { halvesSwapped, storedShape, type Module, type WeightsOptions } from "../nn/index.js";
import { readHeader, type PendingTensor, type SafetensorsHeader } from "../safetensors/index.js";
import { cat, type Tensor } from "../torch/index.js";
import { Shapes } from "./infer.js";
import { vaeNames, type Names } from "./names.js";

/** A config, and its source for errors. */
export interface Given {
  readonly config: JsonObject;
  readonly source: string;
}

/** Where a part's weights are in the file. */
export interface Place {
  readonly prefix: string;
  readonly names: Names;
  /** Keys of the part, without the prefix, that need not be read. */
  readonly ignore?: readonly RegExp[];
}

/** A checkpoint of several models, and a folder whose configs replace the inferred ones. */
export class Checkpoint {
  readonly file: string;
  readonly header: SafetensorsHeader;
  readonly shapes: Shapes;
  readonly #configFolder: string | undefined;
  readonly #elsewhere: Readonly<Record<string, string>>;

  /**
   * @param elsewhere the folders of parts that are not inside of the folder of configs
   * @throws SafetensorsError, see readHeader
   */
  constructor(file: string, configFolder?: string, elsewhere: Readonly<Record<string, string>> = {}) {
    this.file = file;
    this.#configFolder = configFolder;
    this.#elsewhere = elsewhere;
    this.header = readHeader(file);
    this.shapes = new Shapes(this.header);
  }

  /** A part's config: from the config folder, or inferred from its weights. */
  config(part: string, infer: () => object): Given {
    return this.given(part, "config.json") ?? { config: infer() as JsonObject, source: this.file };
  }

  /** A config of the config folder, if there is one. */
  given(part: string, name: string): Given | undefined {
    if (this.#configFolder === undefined) return undefined;
    const source = join(this.#elsewhere[part] ?? join(this.#configFolder, part), name);
    return existsSync(source) ? { config: readJsonObject(source, ModelConfigError), source } : undefined;
  }

  /** The VAE, whose keys are those of all families. */
  vae(prefix: string, infer: (shapes: Shapes) => object, options: WeightsOptions): AutoencoderKL {
    const given = this.config("vae", () => infer(this.shapes.at(prefix)));
    const levels = levelsOf(AutoencoderKL.layout.parseConfig(given.config, given.source));
    const ignore = [/^(loss|model_ema)\./]; // of a VAE that was merged in as it came from training
    return this.load(AutoencoderKL, given, { prefix, names: vaeNames(prefix, levels), ignore }, options);
  }

  load<Config extends object, ConfigInput extends object, Model extends Module>(
    modelClass: ModelClass<Config, ConfigInput, Model>,
    given: Given,
    { prefix, names, ignore = [] }: Place,
    options: WeightsOptions,
  ): Model {
    return loadModel(modelClass, { ...given, files: [this.file], ignore }, { ...options, names, prefix });
  }
}

/** A model's parameters with the names and layout of the original. */
export function toStored(model: Module, names: Names): Map<string, PendingTensor> {
  const all = new Map<string, PendingTensor>();
  const thirds = new Map<string, Tensor[]>();
  for (const [name, parameter] of model.parameters()) {
    const { key, stored = "as-is" } = names(name);
    const { dtype } = parameter;
    const shape = storedShape(parameter.shape, stored);
    if (stored === "transposed") all.set(key, { dtype, shape, tensor: () => parameter.transpose(0, 1) });
    else if (stored === "swapped") all.set(key, { dtype, shape, tensor: () => halvesSwapped(parameter) });
    else if (typeof stored === "string") all.set(key, { dtype, shape, tensor: () => parameter });
    else {
      const qkv = thirds.get(key) ?? [];
      thirds.set(key, qkv);
      qkv[stored.qkv] = parameter;
      all.set(key, { dtype, shape, tensor: () => cat(qkv) });
    }
  }
  return all;
}

/** Levels of a VAE, which its names depend on. */
export const levelsOf = (config: AutoencoderKLConfig): number => config.block_out_channels.length;

/** transformers from 5.0 names a CLIPTextModel's parameters without the tower's `text_model`. */
export const inTower =
  (names: Names): Names =>
  (key) =>
    names(/^(text_model|text_projection)\./.test(key) ? key : `text_model.${key}`);
