/**
 * Bytes that Stable Diffusion's passes take besides weights, worked out from the configs of a folder. Nothing is loaded.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  AutoencoderKL,
  UNet2DConditionModel,
  unetForwardBytes,
  unetTrainingBytes,
  vaeDecodeBytes,
} from "../models/index.js";
import type { DType } from "../torch/index.js";
import { imagesAtOnce } from "./decode.js";
import type { PassMemory, PassSetting } from "./diffusion-model.js";

/** Tokens of a prompt. */
const TOKENS = 77;

const FLOAT = 4;

const itemBytes = (dtype: DType): number => (dtype === "float32" ? FLOAT : 2);

/** undefined for a single file, whose configs are not read. @throws ModelConfigError for a config that is none */
export function passMemory(path: string, setting: PassSetting): PassMemory | undefined {
  if (!existsSync(join(path, "unet/config.json")) || !existsSync(join(path, "vae/config.json"))) return undefined;
  const unet = UNet2DConditionModel.readConfig(join(path, "unet"));
  const vae = AutoencoderKL.readConfig(join(path, "vae"));
  const { dtype, computeDtype, device, tiling, fusedAttention, trains, gradientCheckpointing } = setting;
  const scale = 2 ** (vae.block_out_channels.length - 1);
  const own = unet.sample_size ?? 64;
  const [ownHeight, ownWidth] = typeof own === "number" ? [own, own] : (own as [number, number]);
  const height = setting.height === undefined ? ownHeight : setting.height / scale;
  const width = setting.width === undefined ? ownWidth : setting.width / scale;
  const latents = unet.in_channels * height * width;
  const network = {
    itemBytes: itemBytes(computeDtype),
    // What is trained whole is in float32.
    weightBytes: trains === "all" ? FLOAT : itemBytes(dtype),
    copiesKernels: device === "cpu",
    fusedAttention,
    trains,
  };
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
    decoding(images) {
      const pixels = height * width * scale ** 2;
      const upcast = vae.force_upcast && computeDtype === "float16";
      const atOnce = Math.min(images, imagesAtOnce(pixels, device));
      const bytes = vaeDecodeBytes(
        vae,
        { images: atOnce, height, width, tiling },
        { ...network, itemBytes: upcast ? FLOAT : itemBytes(computeDtype), weightBytes: itemBytes(dtype) },
      );
      const ofImage = pixels * vae.out_channels * FLOAT;
      const done = (Math.floor(images / atOnce) - 1) * atOnce;
      // Then their values are brought to 0 .. 1, and all are joined.
      return Math.max(Math.max(bytes, 4 * atOnce * ofImage) + done * ofImage, 2 * images * ofImage);
    },
  };
}
