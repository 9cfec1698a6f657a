/**
 * Bytes that a model's passes take besides weights, worked out from the configs of a folder. Nothing is loaded.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  AutoencoderKL,
  UNet2DConditionModel,
  unetForwardBytes,
  unetTrainingBytes,
  vaeDecodeBytes,
  type AutoencoderKLConfig,
  type NetworkSetting,
} from "../models/index.js";
import type { DType } from "../torch/index.js";
import { imagesAtOnce } from "./decode.js";
import type { PassMemory, PassSetting } from "./diffusion-model.js";

/** Tokens of a prompt. */
const TOKENS = 77;

export const FLOAT = 4;

export const itemBytes = (dtype: DType): number => (dtype === "float32" ? FLOAT : 2);

/** How the denoiser computes. */
export function networkSetting(setting: PassSetting): NetworkSetting {
  const { dtype, computeDtype, device, fusedAttention, trains } = setting;
  return {
    itemBytes: itemBytes(computeDtype),
    // What is trained whole is in float32.
    weightBytes: trains === "all" ? FLOAT : itemBytes(dtype),
    copiesKernels: device === "cpu",
    fusedAttention,
    trains,
  };
}

/** Stable Diffusion's: undefined for a single file, whose configs are not read. @throws ModelConfigError for a bad config */
export function passMemory(path: string, setting: PassSetting): PassMemory | undefined {
  if (!existsSync(join(path, "unet/config.json")) || !existsSync(join(path, "vae/config.json"))) return undefined;
  const unet = UNet2DConditionModel.readConfig(join(path, "unet"));
  const vae = AutoencoderKL.readConfig(join(path, "vae"));
  const { gradientCheckpointing } = setting;
  const scale = 2 ** (vae.block_out_channels.length - 1);
  const own = unet.sample_size ?? 64;
  const [ownHeight, ownWidth] = typeof own === "number" ? [own, own] : (own as [number, number]);
  const height = setting.height === undefined ? ownHeight : setting.height / scale;
  const width = setting.width === undefined ? ownWidth : setting.width / scale;
  const latents = unet.in_channels * height * width;
  const network = networkSetting(setting);
  const batch = (rows: number) => ({ rows, height, width, tokens: TOKENS });
  // The text, and the latents before, after and in between.
  const around = (rows: number): number => {
    const { cross_attention_dim: dims } = unet;
    const text = TOKENS * (typeof dims === "number" ? dims : Math.max(...dims)) * network.itemBytes;
    return rows * (text + 4 * latents * FLOAT);
  };
  return {
    latents,
    forward: (rows) => unetForwardBytes(unet, batch(rows), network) + around(rows),
    training: (rows) => unetTrainingBytes(unet, batch(rows), { ...network, gradientCheckpointing }) + around(rows),
    decoding: decodingBytes(vae, { height, width }, setting),
  };
}

/** Bytes of decoding latents of this size to so many images, and of the images. */
export function decodingBytes(
  vae: AutoencoderKLConfig,
  { height, width }: { readonly height: number; readonly width: number },
  setting: PassSetting,
): (images: number) => number {
  const { dtype, computeDtype, device, tiling } = setting;
  const pixels = height * width * 4 ** (vae.block_out_channels.length - 1);
  const upcast = vae.force_upcast && computeDtype === "float16";
  const network = {
    ...networkSetting(setting),
    itemBytes: upcast ? FLOAT : itemBytes(computeDtype),
    weightBytes: itemBytes(dtype),
  };
  return (images) => {
    const atOnce = Math.min(images, imagesAtOnce(pixels, device));
    const bytes = vaeDecodeBytes(vae, { images: atOnce, height, width, tiling }, network);
    const ofImage = pixels * vae.out_channels * FLOAT;
    const done = (Math.floor(images / atOnce) - 1) * atOnce;
    // Then their values are brought to 0 .. 1, and all are joined.
    return Math.max(Math.max(bytes, 4 * atOnce * ofImage) + done * ofImage, 2 * images * ofImage);
  };
}
