/**
 * What the steps of pre-training share: the folders they read and write, and images to train on.
 */
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { AutoencoderKL } from "../../src/models/index.js";
import { loadSafetensors, saveSafetensors } from "../../src/safetensors/index.js";
import { cat, noGrad, tidy, type Device, type Tensor } from "../../src/torch/index.js";
import {
  IMAGE_BYTES,
  scenesOf,
  TEMPLATES,
  toImages,
  toPixels,
  type Random,
  type Renderer,
  type Scene,
  type Template,
} from "../../src/world/index.js";
import { TEMPLATE_SHARES } from "./recipe.js";

export interface Workplace {
  /** Where the finished models go: emoji, emoji-flow, emoji-clip and emoji-classifier. */
  modelsFolder: string;
  /** Checkpoints and other things that only matter while pre-training. */
  workFolder: string;
  seed: number;
  /** Multiplies the length of every training, for trials. */
  scale: number;
  /** Where the flow model learns, the longest of the trainings; all else takes place on the processor. */
  device: Device;
  renderer: Renderer;
}

/** A length of training or a count of images, multiplied by `scale`. */
export function shortened({ scale }: Workplace, length: number): number {
  return Math.ceil(length * scale);
}

export const ALL_SCENES: readonly Scene[] = TEMPLATES.flatMap(scenesOf);

export function pipelineFolder({ modelsFolder }: Workplace, part = ""): string {
  return join(modelsFolder, "emoji", part);
}
export function flowFolder({ modelsFolder }: Workplace, part = ""): string {
  return join(modelsFolder, "emoji-flow", part);
}
export function clipFolder({ modelsFolder }: Workplace): string {
  return join(modelsFolder, "emoji-clip");
}
export function classifierFolder({ modelsFolder }: Workplace): string {
  return join(modelsFolder, "emoji-classifier");
}

/** Writes JSON atomically. */
export function writeJson(file: string, value: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.tmp`, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(`${file}.tmp`, file);
}

/**
 * Halves a folder's weights file by storing float16: models hold them in float32 again when they load them. The
 * measured figures are of the stored weights.
 */
export function storeInHalf(folder: string, stem: "diffusion_pytorch_model" | "model"): void {
  const file = join(folder, `${stem}.safetensors`);
  tidy(() => {
    const halved = [...loadSafetensors(file)].map(([key, weight]) => [key, weight.to({ dtype: "float16" })] as const);
    saveSafetensors(file, new Map(halved), { format: "pt" });
  });
}

/**
 * Leaves settings at their defaults out of a CLIP config. transformers insists on 1.0 for some of them, and JavaScript
 * writes 1.
 */
export function leaveOutDefaults(folder: string): void {
  const file = join(folder, "config.json");
  const defaults = new Set(["initializer_factor", "attention_dropout"]);
  writeJson(
    file,
    JSON.parse(readFileSync(file, "utf8"), (key, value: unknown) => (defaults.has(key) ? undefined : value)),
  );
}

/** Scenes drawn by the shares of their templates, and within a template evenly. */
export function drawScenes(count: number, random: Random): Scene[] {
  return Array.from({ length: count }, () => random.pick(SCENES_BY_TEMPLATE[drawTemplate(random)]));
}
const SCENES_BY_TEMPLATE = Object.fromEntries(TEMPLATES.map((template) => [template, scenesOf(template)])) as Record<
  Template,
  Scene[]
>;

/** A template, by TEMPLATE_SHARES. */
export function drawTemplate(random: Random): Template {
  let at = random.uniform();
  return TEMPLATES.find((template) => (at -= TEMPLATE_SHARES[template]) < 0) ?? "combined";
}

/** A batch of fresh renders. */
export function renderScenes({ renderer }: Workplace, scenes: readonly Scene[], random: Random): Tensor {
  return toImages(renderer.drawBatch(scenes, random));
}

/** Converts images to the VAE's range and back: 0..1 to -1..1. */
export const toSigned = (images: Tensor): Tensor => images.mul(2).sub(1);
export const fromSigned = (images: Tensor): Tensor => images.add(1).div(2).clamp({ min: 0, max: 1 });

/** Images as bytes, with their scenes. */
export interface LabelledPictures {
  scenes: Scene[];
  pictures: Uint8Array;
}

/** Some of these images, as a tensor. */
export function takeImages({ pictures }: LabelledPictures, rows: readonly number[]): Tensor {
  const chosen = new Uint8Array(rows.length * IMAGE_BYTES);
  rows.forEach((row, i) => chosen.set(pictures.subarray(row * IMAGE_BYTES, (row + 1) * IMAGE_BYTES), i * IMAGE_BYTES));
  return toImages(chosen);
}

/** Renders reconstructed by the VAE: what a perfect denoiser's images would look like. */
export function reconstructedPictures(workplace: Workplace, count: number, random: Random): LabelledPictures {
  const vae = AutoencoderKL.fromPretrained(pipelineFolder(workplace, "vae"));
  const scenes = drawScenes(count, random);
  const pictures = new Uint8Array(count * IMAGE_BYTES);
  const chunk = 250;
  for (let start = 0; start < count; start += chunk) {
    const part = scenes.slice(start, start + chunk);
    const bytes = noGrad(() =>
      tidyBytes(() => {
        const { mean } = vae.encode(toSigned(renderScenes(workplace, part, random)));
        return fromSigned(vae.decode(mean));
      }),
    );
    pictures.set(bytes, start * IMAGE_BYTES);
  }
  vae.dispose();
  return { scenes, pictures };
}

function tidyBytes(images: () => Tensor): Uint8Array {
  let bytes = new Uint8Array(0);
  tidy(() => {
    bytes = toPixels(images()) as typeof bytes;
  });
  return bytes;
}

/** Half fresh renders, half images of a pool, with their scenes. */
export function mixedBatch(workplace: Workplace, pool: LabelledPictures, batch: number, random: Random) {
  const fresh = drawScenes(Math.ceil(batch / 2), random);
  const rows = Array.from({ length: Math.floor(batch / 2) }, () => random.below(pool.scenes.length));
  const images = cat([renderScenes(workplace, fresh, random), takeImages(pool, rows)]);
  return { images, scenes: [...fresh, ...rows.map((row) => pool.scenes[row]!)] };
}
