/** Generates images for people to look at: PNG files of prompts, and images for a contact sheet. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { makeFolder } from "../base/files.js";
import type { RunContext } from "../base/progress.js";
import { alone, gatherRows, type Share, type WithWorkers } from "../distributed/index.js";
import { writePng } from "../images/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { evaluationNoise, generateImages, imagesOfWorker } from "./images.js";

/** Where to write images, and how many of each prompt. */
export interface ImageFolder {
  readonly folder: string;
  readonly count: number;
}

/**
 * Writes images of prompts into a folder, as `<prompt>-<image>-<words>.png`.
 *
 * An image depends only on the seed, the prompt's position in the list and the image's number.
 *
 * @returns the paths of the files
 */
export async function generateToFolder(
  policy: Policy,
  prompts: readonly string[],
  { folder, count }: ImageFolder,
  config: Pick<Config, "seed" | "sample" | "eval">,
  context: RunContext,
): Promise<string[]> {
  const digits = Math.max(2, String(prompts.length - 1).length);
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: count }, (_, image) => ({
      prompt,
      noise: evaluationNoise(config.seed, root, image),
      file: join(folder, `${String(root).padStart(digits, "0")}-${image}-${slug(prompt)}.png`),
    })),
  );
  makeFolder(folder);
  const replaced = wanted.filter(({ file }) => existsSync(file)).length;
  if (replaced > 0) context.progress.log(`${replaced} of ${wanted.length} images replace earlier ones in ${folder}`);
  const use = (images: Tensor, batch: readonly string[], start: number): void => {
    for (let row = 0; row < batch.length; row++) {
      tidy(() => writePng(wanted[start + row]!.file, images.select(0, row)));
    }
  };
  await generateImages(policy, wanted, config, { label: "generating", use }, context);
  return wanted.map(({ file }) => file);
}

/**
 * `config.eval.sheetImages` images of each prompt, from the same noise at every call. Several workers share the work, and
 * all get all images.
 *
 * @returns [3, H, W] each, those of the first prompt first; the caller disposes of them
 */
export async function sheetImages(
  policy: Policy,
  prompts: readonly string[],
  config: Pick<Config, "seed" | "sample" | "eval">,
  context: WithWorkers,
): Promise<Tensor[]> {
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: config.eval.sheetImages }, (_, image) => {
      return { prompt, noise: evaluationNoise(config.seed, root, image) };
    }),
  );
  const { workers = alone } = context;
  const kept: Tensor[] = [];
  const use = (images: Tensor, batch: readonly string[]): void => {
    for (let row = 0; row < batch.length; row++) kept.push(tidy(() => images.select(0, row).clone()));
  };
  await generateImages(policy, wanted, config, { label: "contact sheet", use }, context);
  if (workers.size === 1) return kept;
  const shareOfRank = (rank: number): Share => imagesOfWorker(wanted.length, config, { rank, size: workers.size });
  const all = await gatherRows(kept, wanted.length, workers, shareOfRank);
  for (const image of kept) image.dispose();
  const images = wanted.map((_, i) => tidy(() => all.select(0, i).clone()));
  all.dispose();
  return images;
}

/** A prompt in a form that is safe within a file name. */
const slug = (prompt: string): string =>
  prompt
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, "-")
    .replaceAll(/^-|-$/g, "")
    .slice(0, 60);
