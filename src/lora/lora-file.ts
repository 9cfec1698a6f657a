/**
 * LoRA files in PEFT's form, as diffusers and ComfyUI read and write them: `unet.<layer>.lora_A.weight` and `lora_B`.
 * Files in which PEFT itself prefixes its keys, or nothing does, are read too. Rank and alpha stand in the metadata
 * under diffusers' key; files without take alpha = rank, as diffusers does.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { loadSafetensors, readHeader, SafetensorsError, saveSafetensors } from "../safetensors/index.js";
import type { Tensor } from "../torch/index.js";

const fileName = "pytorch_lora_weights.safetensors";
const metadataKey = "lora_adapter_metadata";
const keyPattern = /^(?:unet\.|base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$/;

export interface LoraDescription {
  readonly rank: number;
  readonly alpha: number;
  readonly targetModules: readonly string[];
}

export interface LoraFile {
  readonly file: string;
  readonly rank: number;
  readonly alpha: number;
  /** A and B of each layer, by the layer's path in the model. */
  readonly layers: ReadonlyMap<string, { readonly a: Tensor; readonly b: Tensor }>;
}

/**
 * Reads a LoRA file, or the one in a folder.
 *
 * @throws SafetensorsError naming the file and the key, for keys of another form, halves of a pair, or ranks that differ
 */
export function readLora(fileOrFolder: string): LoraFile {
  const file = fileOf(fileOrFolder);
  const pairs = new Map<string, { a?: Tensor; b?: Tensor }>();
  for (const [key, tensor] of loadSafetensors(file, { dtype: "float32" })) {
    const [, path, half] = keyPattern.exec(key) ?? [];
    if (path === undefined) {
      throw new SafetensorsError(file, "Expected a key of the form unet.<layer>.lora_A.weight or lora_B", key);
    }
    if (tensor.ndim !== 2) {
      throw new SafetensorsError(file, `Expected a matrix but received [${tensor.shape.join(", ")}]`, key);
    }
    const pair = pairs.get(path) ?? {};
    pairs.set(path, pair);
    pair[half === "A" ? "a" : "b"] = tensor;
  }
  const layers = new Map<string, { a: Tensor; b: Tensor }>();
  let rank = 0;
  for (const [path, { a, b }] of pairs) {
    if (a === undefined || b === undefined) {
      throw new SafetensorsError(file, `Expected lora_A and lora_B but received lora_${a ? "A" : "B"} alone`, path);
    }
    rank ||= a.size(0);
    if (a.size(0) !== rank || b.size(1) !== rank) {
      throw new SafetensorsError(file, `Expected rank ${rank} but received ${a.size(0)} and ${b.size(1)}`, path);
    }
    layers.set(path, { a, b });
  }
  if (rank === 0) throw new SafetensorsError(file, "Expected LoRA weights but received none");
  return { file, rank, alpha: alphaOf(file) ?? rank, layers };
}

/** Writes a LoRA file, or the one in a folder. */
export function writeLora(
  fileOrFolder: string,
  parameters: ReadonlyMap<string, Tensor>,
  { rank, alpha, targetModules }: LoraDescription,
): void {
  const file = fileOrFolder.endsWith(".safetensors") ? fileOrFolder : join(fileOrFolder, fileName);
  const described = { "unet.r": rank, "unet.lora_alpha": alpha, "unet.target_modules": targetModules };
  saveSafetensors(file, new Map([...parameters].map(([key, tensor]) => [`unet.${key}`, tensor])), {
    format: "pt",
    [metadataKey]: JSON.stringify(described),
  });
}

function fileOf(fileOrFolder: string): string {
  if (existsSync(fileOrFolder) && statSync(fileOrFolder).isDirectory()) return join(fileOrFolder, fileName);
  return fileOrFolder;
}

function alphaOf(file: string): number | undefined {
  const text = readHeader(file).metadata[metadataKey];
  if (text === undefined) return undefined;
  let alpha: unknown;
  try {
    alpha = (JSON.parse(text) as Record<string, unknown>)["unet.lora_alpha"];
  } catch {
    throw new SafetensorsError(file, `Expected JSON for ${metadataKey} but received ${text.slice(0, 80)}`);
  }
  if (alpha === undefined) return undefined;
  if (typeof alpha !== "number" || !Number.isFinite(alpha)) {
    throw new SafetensorsError(file, `Expected a number for unet.lora_alpha but received ${JSON.stringify(alpha)}`);
  }
  return alpha;
}
