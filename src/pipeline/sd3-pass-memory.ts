/** Bytes that the passes of Stable Diffusion 3 take besides weights, from the configs of a folder. Nothing is loaded. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { AutoencoderKL, sd3ForwardBytes, sd3TrainingBytes, SD3Transformer2DModel } from "../models/index.js";
import type { PassMemory, PassSetting } from "./diffusion-model.js";
import { decodingBytes, FLOAT, networkSetting } from "./pass-memory.js";
import { readSD3Index } from "./sd3-load.js";
import { CLIP_TOKENS } from "./sd3-text.js";

/**
 * @param own the family's options
 * @returns undefined for a single file, whose configs are not read, and where a config is missing
 * @throws ModelConfigError for a config that is none
 */
export function sd3PassMemory(
  path: string,
  setting: PassSetting,
  { maxSequenceLength }: { readonly maxSequenceLength: number },
): PassMemory | undefined {
  if (!existsSync(join(path, "model_index.json"))) return undefined;
  const index = readSD3Index(path);
  const folders = [join(path, "transformer"), index.vae] as const;
  if (folders.some((folder) => !existsSync(join(folder, "config.json")))) return undefined;
  const transformer = SD3Transformer2DModel.readConfig(folders[0]);
  const vae = AutoencoderKL.readConfig(folders[1]);
  const scale = 2 ** (vae.block_out_channels.length - 1);
  const sideOf = (pixels = transformer.sample_size * scale): number => pixels / scale;
  const [height, width] = [sideOf(setting.height), sideOf(setting.width)];
  const latents = transformer.in_channels * height * width;
  const network = networkSetting(setting);
  const { gradientCheckpointing } = setting;
  // Without T5 there are as many zeros as tokens of CLIP.
  const tokens = CLIP_TOKENS + (index.texts.has("_3") ? maxSequenceLength : CLIP_TOKENS);
  const batch = (rows: number) => ({ rows, height, width, tokens });
  // The pooled text, and the latents before, after and in between.
  const around = (rows: number): number =>
    rows * (transformer.pooled_projection_dim * network.itemBytes + 4 * latents * FLOAT);
  return {
    latents,
    forward: (rows) => sd3ForwardBytes(transformer, batch(rows), network) + around(rows),
    training: (rows) =>
      sd3TrainingBytes(transformer, batch(rows), { ...network, gradientCheckpointing }) + around(rows),
    decoding: decodingBytes(vae, { height, width }, setting),
  };
}
