/**
 * LoRA files: PEFT's form, as diffusers reads and writes it, and kohya's, as ComfyUI and AUTOMATIC1111 take it. Both are
 * one safetensors file; the keys tell which.
 *
 * Rank and alpha may differ from layer to layer. In PEFT's form alpha stands in the metadata under diffusers' key, in
 * kohya's beside each layer; where it stands nowhere, it is the rank, as diffusers has it.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  loadSafetensors,
  readHeader,
  SafetensorsError,
  saveSafetensors,
  type SafetensorsHeader,
} from "../safetensors/index.js";
import { allFinite, tensor, tidy, type Tensor } from "../torch/index.js";
import { kohyaName, parseLoraKey, peftName, type LoraForm, type LoraPart } from "./names.js";

export const loraFileName = "pytorch_lora_weights.safetensors";
const metadataKey = "lora_adapter_metadata";

/** One adapted layer of a file. */
export interface LoraLayer {
  readonly part: LoraPart;
  /** In the part, in diffusers' and transformers' names. */
  readonly path: string;
  /** float32 [rank, inFeatures] */
  readonly a: Tensor;
  /** float32 [outFeatures, rank] */
  readonly b: Tensor;
  /** What B A is scaled by is alpha / rank. */
  readonly alpha: number;
}

export interface LoraFile {
  readonly file: string;
  readonly form: LoraForm;
  readonly layers: readonly LoraLayer[];
}

/** Ways to adapt a layer that are not LoRA, by a part of their keys. */
const OTHERS: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/\.hada_/, "LoHa, which is not supported"],
  [/\.lokr_/, "LoKr, which is not supported"],
  [/\.(dora_scale|lora_magnitude_vector)/, "DoRA, which is not supported"],
  [/\.lora_mid/, "a LoCon with a core, which is not supported"],
  [/\.(oft_|boft_|glora|diff$|diff_b$)/, "an adapter that is not a LoRA, which is not supported"],
  [
    /^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\./,
    "a whole checkpoint: give it as the model",
  ],
];

/**
 * Reads a LoRA file, or the one in a folder.
 *
 * @throws SafetensorsError naming the file and the key, for keys of no known form, halves of a pair, shapes that do not
 *   belong together, numbers that are not finite
 */
export function readLora(fileOrFolder: string): LoraFile {
  const file = fileOf(fileOrFolder);
  const header = readHeader(file);
  return tidy(() => {
    const pairs = new Map<string, { part: LoraPart; path: string; a?: Tensor; b?: Tensor; alpha?: number }>();
    let form: LoraForm | undefined;
    for (const [key, value] of loadSafetensors(file, { dtype: "float32" })) {
      const parsed = parseLoraKey(key);
      if (parsed === undefined) throw new SafetensorsError(file, unknownKey(key), key);
      form ??= parsed.form;
      if (parsed.form !== form)
        throw new SafetensorsError(file, `Expected keys of one form, ${form}, but received ${parsed.form}`, key);
      const { part, path } = parsed;
      const pair = pairs.get(`${part}.${path}`) ?? { part, path };
      pairs.set(`${part}.${path}`, pair);
      if (pair[parsed.value] !== undefined)
        throw new SafetensorsError(file, `Expected one ${parsed.value} for ${path} but received two`, key);
      if (!/^B?F\d+$/.test(header.tensors.get(key)!.dtype) && parsed.value !== "alpha")
        throw new SafetensorsError(file, `Expected floating point but received ${header.tensors.get(key)!.dtype}`, key);
      if (parsed.value === "alpha") pair.alpha = checkedNumber(file, key, value);
      else pair[parsed.value] = checkedMatrix(file, key, value);
    }
    if (form === undefined) throw new SafetensorsError(file, "Expected LoRA weights but received none");
    const alphas = alphasOf(header);
    const layers = [...pairs.values()].map(({ part, path, a, b, alpha }): LoraLayer => {
      if (a === undefined || b === undefined) {
        const missing = a === undefined ? (b === undefined ? "A and B" : "A") : "B";
        throw new SafetensorsError(file, `Expected both matrices of ${path} but received none for ${missing}`);
      }
      const rank = a.size(0);
      if (b.size(1) !== rank) {
        throw new SafetensorsError(file, `Expected one rank for ${path} but received ${rank} and ${b.size(1)}`);
      }
      if (rank === 0) throw new SafetensorsError(file, `Expected a rank of 1 or more for ${path} but received 0`);
      return { part, path, a, b, alpha: alpha ?? alphas(part, path) ?? rank };
    });
    return { file, form, layers };
  });
}

/** How the layers are written. */
export interface WriteLoraOptions {
  readonly form?: LoraForm;
  /** For kohya's form: whether the layers are SDXL's. */
  readonly isXL?: boolean;
  readonly layersPerBlock?: number;
  /** For kohya's form: whether the projections of the transformers are convolutions (SD 1). */
  readonly pointProjections?: boolean;
  /** For PEFT's form: what the config of the adapter names as its targets. */
  readonly targetModules?: readonly string[];
}

/** Writes a LoRA file, or the one in a folder. */
export function writeLora(fileOrFolder: string, layers: readonly LoraLayer[], options: WriteLoraOptions = {}): void {
  const file = fileOrFolder.endsWith(".safetensors") ? fileOrFolder : join(fileOrFolder, loraFileName);
  if ((options.form ?? "peft") === "peft") writePeft(file, layers, options);
  else writeKohya(file, layers, options);
}

function writePeft(file: string, layers: readonly LoraLayer[], { targetModules }: WriteLoraOptions): void {
  const tensors = layers.flatMap(({ part, path, a, b }): [string, Tensor][] => [
    [peftName(part, path, "A"), a],
    [peftName(part, path, "B"), b],
  ]);
  const described: Record<string, unknown> = {};
  for (const part of new Set(layers.map((layer) => layer.part))) {
    const own = layers.filter((layer) => layer.part === part);
    const [first] = own;
    const [rank, alpha] = [first!.a.size(0), first!.alpha];
    described[`${part}.r`] = rank;
    described[`${part}.lora_alpha`] = alpha;
    described[`${part}.target_modules`] =
      part === "unet" && targetModules ? targetModules : own.map(({ path }) => path);
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
  saveSafetensors(file, new Map(tensors), { format: "pt", [metadataKey]: JSON.stringify(described) });
}

function writeKohya(file: string, layers: readonly LoraLayer[], options: WriteLoraOptions): void {
  const { isXL = looksLikeXL(layers), layersPerBlock, pointProjections = !isXL } = options;
  const [first] = layers;
  tidy(() => {
    const tensors = layers.flatMap(({ part, path, a, b, alpha }): [string, Tensor][] => {
      const name = kohyaName(part, path, isXL, layersPerBlock);
      // SD 1's projections are convolutions to kohya and those who read its files.
      const isPoint = pointProjections && part === "unet" && /\.proj_(in|out)$/.test(path);
      const kernel = (matrix: Tensor): Tensor => (isPoint ? matrix.detach().reshape([...matrix.shape, 1, 1]) : matrix);
      return [
        [`${name}.lora_down.weight`, kernel(a)],
        [`${name}.lora_up.weight`, kernel(b)],
        [`${name}.alpha`, tensor(alpha)],
      ];
    });
    saveSafetensors(file, new Map(tensors), {
      ...{ format: "pt", ss_network_module: "networks.lora" },
      ...{ ss_network_dim: String(first?.a.size(0) ?? 0), ss_network_alpha: String(first?.alpha ?? 0) },
      ss_base_model_version: isXL ? "sdxl_base_v1-0" : "sd_v1",
    });
  });
}

/** Only SDXL has a second text encoder, or more than one block in a transformer. */
export const looksLikeXL = (layers: readonly { readonly part: LoraPart; readonly path: string }[]): boolean =>
  layers.some(({ part, path }) => part === "text_encoder_2" || /\.transformer_blocks\.[1-9]/.test(path));

function fileOf(fileOrFolder: string): string {
  if (existsSync(fileOrFolder) && statSync(fileOrFolder).isDirectory()) return join(fileOrFolder, loraFileName);
  return fileOrFolder;
}

function unknownKey(key: string): string {
  const other = OTHERS.find(([pattern]) => pattern.test(key));
  if (other !== undefined) return `Expected a LoRA but received ${other[1]}`;
  return "Expected a key such as unet.<layer>.lora_A.weight (PEFT) or lora_unet_<layer>.lora_down.weight (kohya)";
}

/** A matrix, which may be stored as a kernel of a point. */
function checkedMatrix(file: string, key: string, value: Tensor): Tensor {
  const [rows, columns, ...kernel] = value.shape;
  if (rows === undefined || columns === undefined || ![0, 2].includes(kernel.length)) {
    throw new SafetensorsError(file, `Expected a matrix but received [${value.shape.join(", ")}]`, key);
  }
  if (kernel.some((n) => n !== 1)) {
    throw new SafetensorsError(
      file,
      `Expected a matrix but received a ${kernel.join("x")} kernel: LoRA of such convolutions (LoCon) is not supported`,
      key,
    );
  }
  if (!allFinite(value)) {
    throw new SafetensorsError(file, "Expected finite numbers but received NaN or infinity", key);
  }
  return kernel.length === 0 ? value : value.reshape([rows, columns]);
}

function checkedNumber(file: string, key: string, value: Tensor): number {
  const number = value.numel === 1 ? value.item() : NaN;
  if (Number.isFinite(number)) return number;
  const received = value.numel === 1 ? "NaN or infinity" : `[${value.shape.join(", ")}]`;
  throw new SafetensorsError(file, `Expected a finite number but received ${received}`, key);
}

/** What the metadata says of a layer's alpha. */
function alphasOf({ file, metadata }: SafetensorsHeader): (part: LoraPart, path: string) => number | undefined {
  const text = metadata[metadataKey];
  if (text === undefined) return () => undefined;
  let described: Record<string, unknown> | null;
  try {
    described = JSON.parse(text) as Record<string, unknown> | null;
  } catch {
    described = null;
  }
  if (typeof described !== "object" || described === null) {
    throw new SafetensorsError(file, `Expected a JSON object for ${metadataKey} but received ${text.slice(0, 80)}`);
  }
  return (part, path) => {
    const patterns = Object.entries((described[`${part}.alpha_pattern`] ?? {}) as Record<string, unknown>);
    const own = patterns.find(([pattern]) => path === pattern || path.endsWith(`.${pattern}`))?.[1];
    const alpha = own ?? described[`${part}.lora_alpha`];
    if (alpha === undefined) return undefined;
    if (typeof alpha !== "number" || !Number.isFinite(alpha)) {
      throw new SafetensorsError(
        file,
        `Expected a number for ${part}.lora_alpha but received ${JSON.stringify(alpha)}`,
      );
    }
    return alpha;
  };
}
