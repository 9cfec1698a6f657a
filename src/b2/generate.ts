/** Pictures for people: prompts to PNG files, and contact sheets before and after. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { writePng } from "../images/index.js";
import { type Tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { evaluationNoise, generateImages } from "./evaluation.js";
import type { Policy } from "./policy.js";
import type { RunContext } from "../base/progress.js";

/**
 * Writes images of prompts into a folder, as `<prompt>-<image>-<words>.png`.
 *
 * The picture of a prompt depends on (seed, its place in the list, the image's number) alone.
 *
 * @param count images of each prompt
 * @returns the files
 */
export async function generateToFolder(
  policy: Policy,
  prompts: readonly string[],
  folder: string,
  count: number,
  config: Pick<Config, "seed" | "sample" | "reward">,
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
  mkdirSync(folder, { recursive: true });
  await generateImages(policy, wanted, config, context, "generating", (images, batch, start) => {
    for (let row = 0; row < batch.length; row++) {
      tidy(() => writePng(wanted[start + row]!.file, images.select(0, row)));
    }
  });
  return wanted.map(({ file }) => file);
}

/**
 * One picture of each prompt, from the same noise at every call.
 *
 * @returns [3, H, W] each, the caller's
 */
export async function sheetPictures(
  policy: Policy,
  prompts: readonly string[],
  config: Pick<Config, "seed" | "sample" | "reward">,
  context: RunContext,
): Promise<Tensor[]> {
  const wanted = prompts.map((prompt, root) => ({ prompt, noise: evaluationNoise(config.seed, root, 0) }));
  const pictures: Tensor[] = [];
  await generateImages(policy, wanted, config, context, "contact sheet", (images, batch) => {
    for (let row = 0; row < batch.length; row++) pictures.push(tidy(() => images.select(0, row).clone()));
  });
  return pictures;
}

/** A prompt as part of a file's name. */
const slug = (prompt: string): string =>
  prompt
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N}]+/gu, "-")
    .replaceAll(/^-|-$/g, "")
    .slice(0, 60);
