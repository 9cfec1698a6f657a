/**
 * LoRA files in PEFT's format, which diffusers reads and writes, and in kohya's, which ComfyUI and AUTOMATIC1111 use.
 * Both are one safetensors file; the keys show which.
 *
 * Rank and alpha may differ between layers. PEFT's format stores alpha in the metadata under diffusers' key, or in the
 * `adapter_config.json` of PEFT's own folders; kohya's stores it as a tensor beside each layer. Without any, alpha is
 * the rank, as in diffusers.
 */
import { existsSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { InputError } from "../base/errors.js";
import { isJsonObject, parseJsonObject, readJsonObject, type JsonObject } from "../base/files.js";
import { show, showShape } from "../base/show.js";
import {
  loadSafetensors,
  readHeader,
  SafetensorsError,
  saveSafetensors,
  type SafetensorsHeader,
} from "../safetensors/index.js";
import { allFinite, noGrad, tensor, tidy, type Tensor } from "../torch/index.js";
import { fromKohya, toKohya, type KohyaOptions } from "./kohya.js";
import type { Kernel, LoraLayer } from "./layer.js";
import { parseLoraKey, peftName, type LoraForm, type LoraPart } from "./names.js";

export const LORA_FILE_NAME = "pytorch_lora_weights.safetensors";
const METADATA_KEY = "lora_adapter_metadata";
/** PEFT's own names of the file and of its config. */
const PEFT_FILE_NAME = "adapter_model.safetensors";
/** The LoRA files that a folder may hold, in the order in which they are looked for. */
export const LORA_FILE_NAMES: readonly string[] = [LORA_FILE_NAME, PEFT_FILE_NAME];
const PEFT_CONFIG_NAME = "adapter_config.json";

export interface LoraFile {
  readonly file: string;
  readonly form: LoraForm;
  readonly layers: readonly LoraLayer[];
}

/** Recognises unsupported files by a part of their keys. */
const OTHERS: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/\.hada_/, "LoHa, which is not supported"],
  [/\.lokr_/, "LoKr, which is not supported"],
  [/\.(dora_scale|lora_magnitude_vector)/, "DoRA, which is not supported"],
  [/\.lora_mid/, "a LoCon with a core, which is not supported"],
  [/\.(oft_|boft_|glora|diff$|diff_b$|w_norm$|b_norm$)/, "an adapter that is not a LoRA, which is not supported"],
  [/^lora_(unet|transformer)_(double|single)_/, "kohya's format for Flux, which is not supported: use PEFT's format"],
  [
    /^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\./,
    "a whole checkpoint: set model.path to it",
  ],
];

/**
 * Reads a LoRA file, or the one in a folder.
 *
 * @param options.part the model of keys that name none, as in PEFT's own folders. Default: `unet`, or `text_encoder` if
 *   the paths are those of a text encoder
 * @throws InputError naming the file and the key, for unknown keys, unpaired matrices, shapes that do not fit together,
 *   and values that are not finite
 */
export function readLora(fileOrFolder: string, { part: unnamed }: { readonly part?: LoraPart } = {}): LoraFile {
  const file = fileOf(fileOrFolder);
  const header = readHeader(file);
  return tidy(() => {
    const pairs = new Map<string, Pick<LoraLayer, "part" | "path"> & Partial<Writable<LoraLayer>>>();
    let form: LoraForm | undefined;
    for (const [key, value] of loadSafetensors(file, { dtype: "float32" })) {
      const parsed = parseLoraKey(key, unnamed);
      if (parsed === undefined) throw new SafetensorsError(file, unknownKey(key), key);
      form ??= parsed.form;
      if (parsed.form !== form)
        throw new SafetensorsError(file, `Expected keys of one format, ${form}, but received ${parsed.form}`, key);
      const { part, path } = parsed;
      const pair = pairs.get(`${part}.${path}`) ?? { part, path };
      pairs.set(`${part}.${path}`, pair);
      if (pair[parsed.value] !== undefined)
        throw new SafetensorsError(file, `Expected one ${parsed.value} for ${path} but received two`, key);
      if (!/^B?F\d+$/.test(header.tensors.get(key)!.dtype) && parsed.value !== "alpha")
        throw new SafetensorsError(file, `Expected floating point but received ${header.tensors.get(key)!.dtype}`, key);
      if (parsed.value === "alpha") pair.alpha = checkedNumber(file, key, value);
      else {
        const { matrix, kernel } = asMatrix(file, key, value);
        pair[parsed.value] = matrix;
        if (parsed.value === "a") pair.kernel = kernel;
        else if (kernel !== undefined && kernel.join() !== "1,1") {
          throw new SafetensorsError(file, `Expected a 1x1 kernel for B but received ${kernel.join("x")}`, key);
        }
      }
    }
    if (form === undefined) throw new SafetensorsError(file, "Expected LoRA weights but received none");
    const alphas = alphasOf(header);
    const layers = [...pairs.values()].flatMap(({ part, path, a, b, alpha, kernel }): LoraLayer[] => {
      if (a === undefined || b === undefined) {
        const missing = a === undefined ? (b === undefined ? "A and B" : "A") : "B";
        throw new SafetensorsError(file, `Expected both matrices of ${path} but received none for ${missing}`);
      }
      const rank = a.size(0);
      if (b.size(1) !== rank) {
        throw new SafetensorsError(file, `Expected one rank for ${path} but received ${rank} and ${b.size(1)}`);
      }
      if (rank === 0) throw new SafetensorsError(file, `Expected a rank of 1 or more for ${path} but received 0`);
      const layer = { part, path, a, b, alpha: alpha ?? alphas(part, path, rank) ?? rank, kernel };
      return form === "kohya" ? fromKohya(layer, file) : [layer];
    });
    const names = new Set<string>();
    for (const { part, path } of layers) {
      const name = `${part}.${path}`;
      if (names.has(name))
        throw new SafetensorsError(file, `Expected one pair of matrices for ${name} but received two`);
      names.add(name);
    }
    return { file, form, layers };
  });
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** How layers are written; the family counts for kohya's format alone. */
export interface WriteLoraOptions extends KohyaOptions {
  readonly form?: LoraForm;
  /** For PEFT's format: the target modules in the adapter's config. Default: the layers' paths. */
  readonly targetModules?: readonly string[];
  /** Named in errors: the file that the layers come from. Default: the file being written. */
  readonly source?: string;
}

/**
 * Writes a LoRA file, or the one in a folder.
 *
 * @throws InputError for layers without a name in kohya's format
 */
export function writeLora(fileOrFolder: string, layers: readonly LoraLayer[], options: WriteLoraOptions = {}): void {
  const file = fileOrFolder.endsWith(".safetensors") ? fileOrFolder : join(fileOrFolder, LORA_FILE_NAME);
  if ((options.form ?? "peft") === "peft") writePeft(file, layers, options);
  else writeKohya(file, layers, options);
}

function writePeft(file: string, layers: readonly LoraLayer[], { targetModules }: WriteLoraOptions): void {
  const names = layers.map(({ part, path }) => (["A", "B"] as const).map((half) => peftName(part, path, half)));
  const described: Record<string, unknown> = {};
  for (const part of new Set(layers.map((layer) => layer.part))) {
    const own = layers.filter((layer) => layer.part === part);
    const [first] = own;
    const [rank, alpha] = [first!.a.size(0), first!.alpha];
    described[`${part}.r`] = rank;
    described[`${part}.lora_alpha`] = alpha;
    described[`${part}.target_modules`] = targetModules ?? own.map(({ path }) => path);
    const other = (value: (layer: LoraLayer) => number, usual: number): object =>
      Object.fromEntries(own.filter((layer) => value(layer) !== usual).map((layer) => [layer.path, value(layer)]));
    const patterns = {
      rank_pattern: other(({ a }) => a.size(0), rank),
      alpha_pattern: other((layer) => layer.alpha, alpha),
    };
    for (const [name, pattern] of Object.entries(patterns)) {
      if (Object.keys(pattern).length > 0) described[`${part}.${name}`] = pattern;
    }
  }
  tidy(() => {
    const tensors = layers.flatMap((layer, i) => storedPair(layer).map((half, j) => [names[i]![j]!, half] as const));
    saveSafetensors(file, new Map(tensors), { format: "pt", [METADATA_KEY]: JSON.stringify(described) });
  });
}

function writeKohya(file: string, layers: readonly LoraLayer[], options: WriteLoraOptions): void {
  const write = (): void => {
    const { layers: named, metadata } = toKohya(layers, options.source ?? file, options);
    const tensors = [...named].flatMap(([name, layer]): [string, Tensor][] => {
      const [down, up] = storedPair(layer);
      return [
        [`${name}.lora_down.weight`, down],
        [`${name}.lora_up.weight`, up],
        [`${name}.alpha`, tensor(layer.alpha)],
      ];
    });
    saveSafetensors(file, new Map(tensors), { format: "pt", ...metadata });
  };
  tidy(() => noGrad(write));
}

/** A and B as files store them. */
function storedPair({ a, b, kernel }: LoraLayer): [a: Tensor, b: Tensor] {
  if (kernel === undefined) return [a, b];
  const [rank, inputs] = a.shape as [number, number];
  const [height, width] = kernel;
  return [a.detach().reshape([rank, inputs / (height * width), height, width]), b.detach().reshape([...b.shape, 1, 1])];
}

/** The LoRA file of a folder, named as by diffusers or PEFT; undefined if there is none. */
export const loraFileIn = (folder: string): string | undefined =>
  LORA_FILE_NAMES.map((name) => join(folder, name)).find((file) => existsSync(file));

function fileOf(fileOrFolder: string): string {
  if (!existsSync(fileOrFolder) || !statSync(fileOrFolder).isDirectory()) return fileOrFolder;
  return loraFileIn(fileOrFolder) ?? join(fileOrFolder, LORA_FILE_NAME);
}

function unknownKey(key: string): string {
  const other = OTHERS.find(([pattern]) => pattern.test(key));
  if (other !== undefined) return `Expected a LoRA but received ${other[1]}`;
  return "Expected a key such as unet.<layer>.lora_A.weight (PEFT) or lora_unet_<layer>.lora_down.weight (kohya)";
}

/** Flattens a kernel to a matrix with one row per output. */
function asMatrix(file: string, key: string, value: Tensor): { matrix: Tensor; kernel: Kernel | undefined } {
  const [rows, columns, ...kernel] = value.shape;
  if (rows === undefined || columns === undefined || ![0, 2].includes(kernel.length)) {
    throw new SafetensorsError(file, `Expected a matrix or a kernel but received ${showShape(value.shape)}`, key);
  }
  if (!allFinite(value)) {
    throw new SafetensorsError(file, "Expected finite numbers but received NaN or infinity", key);
  }
  if (kernel.length === 0) return { matrix: value, kernel: undefined };
  return { matrix: value.flatten(1), kernel: kernel as unknown as Kernel };
}

function checkedNumber(file: string, key: string, value: Tensor): number {
  const number = value.numel === 1 ? value.item() : NaN;
  if (Number.isFinite(number)) return number;
  const received = value.numel === 1 ? "NaN or infinity" : showShape(value.shape);
  throw new SafetensorsError(file, `Expected a finite number but received ${received}`, key);
}

/** Alpha of a layer from PEFT's adapter config, in the metadata or in the config file. */
function alphasOf({
  file,
  metadata,
}: SafetensorsHeader): (part: LoraPart, path: string, rank: number) => number | undefined {
  if (basename(file) === PEFT_FILE_NAME) {
    const beside = join(dirname(file), PEFT_CONFIG_NAME);
    if (!existsSync(beside)) {
      throw new SafetensorsError(file, `Expected ${PEFT_CONFIG_NAME}, which holds alpha, beside it but received none`);
    }
    const described = readJsonObject(beside);
    return (_part, path, rank) => alphaOf(described, "", beside, path, rank);
  }
  const text = metadata[METADATA_KEY];
  if (text === undefined) return () => undefined;
  const source = `${file}: ${METADATA_KEY}`;
  const described = parseJsonObject(text, source);
  return (part, path, rank) => alphaOf(described, `${part}.`, source, path, rank);
}

/** @param prefix of the config's keys */
function alphaOf(
  described: JsonObject,
  prefix: string,
  source: string,
  path: string,
  rank: number,
): number | undefined {
  const at = (name: string): unknown => described[prefix + name];
  const wrong = (name: string, expected: string, received: unknown): never => {
    throw new InputError(`${source}: Expected ${expected} for ${prefix}${name} but received ${show(received)}`);
  };
  if (at("use_dora") === true) wrong("use_dora", "false", true);
  const patterns = at("alpha_pattern") ?? {};
  if (!isJsonObject(patterns)) return wrong("alpha_pattern", "layers and their alpha", patterns);
  const own = Object.entries(patterns).find(([pattern]) => {
    // PEFT allows regular expressions, but it and diffusers only write names.
    const name = pattern.replace(/^\^/, "").replaceAll("\\.", ".");
    if (!/^[\w.]+$/.test(name)) wrong("alpha_pattern", "names of layers", pattern);
    return path === name || path.endsWith(`.${name}`);
  })?.[1];
  const alpha = own ?? at("lora_alpha");
  if (alpha === undefined) return undefined;
  if (typeof alpha !== "number" || !Number.isFinite(alpha)) return wrong("lora_alpha", "a number", alpha);
  // Rank-stabilised LoRA (arXiv 2312.03732) is scaled by alpha / sqrt(rank).
  return at("use_rslora") === true ? alpha * Math.sqrt(rank) : alpha;
}
