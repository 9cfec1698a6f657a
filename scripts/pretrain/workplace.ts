/**
 * What the steps of pre-training share: the folders they read and write, and pictures to learn from.
 */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { AutoencoderKL } from "../../src/models/index.js";
import { noGrad, tidy, type Tensor } from "../../src/torch/index.js";
import {
  PICTURE_BYTES,
  Random,
  Renderer,
  scenesOf,
  TEMPLATES,
  toImages,
  toPictures,
  type Scene,
} from "../../src/world/index.js";

export interface Workplace {
  /** Where the finished models go: emoji, emoji-clip and emoji-classifier. */
  modelsFolder: string;
  /** Checkpoints and other things that only matter while pre-training. */
  workFolder: string;
  seed: number;
  /** Multiplies the length of every training, for trials. */
  scale: number;
  renderer: Renderer;
}

export const ALL_SCENES: readonly Scene[] = TEMPLATES.flatMap(scenesOf);

export function pipelineFolder({ modelsFolder }: Workplace, part = ""): string {
  return join(modelsFolder, "emoji", part);
}
export function clipFolder({ modelsFolder }: Workplace): string {
  return join(modelsFolder, "emoji-clip");
}
export function classifierFolder({ modelsFolder }: Workplace): string {
  return join(modelsFolder, "emoji-classifier");
}

/** Writes JSON so that a reader sees the old file or the new one. */
export function writeJson(file: string, value: unknown): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.tmp`, `${JSON.stringify(value, null, 2)}\n`);
  renameSync(`${file}.tmp`, file);
}

/** Scenes drawn evenly over the templates, and within a template evenly over its scenes. */
export function drawScenes(count: number, random: Random): Scene[] {
  return Array.from({ length: count }, () => random.pick(SCENES_BY_TEMPLATE[random.below(TEMPLATES.length)]!));
}
const SCENES_BY_TEMPLATE = TEMPLATES.map(scenesOf);

/** A batch of fresh renders. */
export function renderScenes({ renderer }: Workplace, scenes: readonly Scene[], random: Random): Tensor {
  return toImages(renderer.drawBatch(scenes, random));
}

/** Images to what the VAE takes and back: 0..1 to -1..1. */
export const toSigned = (images: Tensor): Tensor => images.mul(2).sub(1);
export const fromSigned = (images: Tensor): Tensor => images.add(1).div(2).clamp({ min: 0, max: 1 });

/** Pictures kept as bytes, with what they show. */
export interface LabelledPictures {
  scenes: Scene[];
  pictures: Uint8Array;
}

/** Some of the pictures, as images. */
export function takeImages({ pictures }: LabelledPictures, rows: readonly number[]): Tensor {
  const chosen = new Uint8Array(rows.length * PICTURE_BYTES);
  rows.forEach((row, i) =>
    chosen.set(pictures.subarray(row * PICTURE_BYTES, (row + 1) * PICTURE_BYTES), i * PICTURE_BYTES),
  );
  return toImages(chosen);
}

/** Renders that went through the VAE and back: what a perfect denoiser's pictures would look like. */
export function reconstructedPictures(workplace: Workplace, count: number, random: Random): LabelledPictures {
  const vae = AutoencoderKL.fromPretrained(pipelineFolder(workplace, "vae"));
  const scenes = drawScenes(count, random);
  const pictures = new Uint8Array(count * PICTURE_BYTES);
  const chunk = 250;
  for (let start = 0; start < count; start += chunk) {
    const part = scenes.slice(start, start + chunk);
    const bytes = noGrad(() =>
      tidyBytes(() => {
        const { mean } = vae.encode(toSigned(renderScenes(workplace, part, random)));
        return fromSigned(vae.decode(mean));
      }),
    );
    pictures.set(bytes, start * PICTURE_BYTES);
  }
  vae.dispose();
  return { scenes, pictures };
}

function tidyBytes(images: () => Tensor): Uint8Array {
  let bytes = new Uint8Array(0);
  tidy(() => {
    bytes = toPictures(images()) as typeof bytes;
  });
  return bytes;
}
