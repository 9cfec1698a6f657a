/** Latents to images, as every family with an AutoencoderKL decodes them. */
import type { AutoencoderKL } from "../models/index.js";
import { cat, tidy, type Device, type DType, type Tensor } from "../torch/index.js";

/**
 * Pixels decoded at a time: 32 images of 64x64, or one of 512x512. With larger activations the allocator maps new
 * memory each time, and they exceed the CPU caches: 144 images of 64x64 took 931 ms of CPU time in one batch and 684 ms
 * in batches of 36.
 */
const PIXELS_AT_ONCE = 2 ** 17;

/** On an accelerator: eight of 512x512, whose activations take some 8 GB in float32. */
const PIXELS_AT_ONCE_ON_DEVICE = 2 ** 21;

export interface DecodeOptions {
  readonly dtype: DType;
  readonly device: Device;
  /** Images at a time. Default: as many as the device decodes well. */
  readonly batchSize?: number | undefined;
}

/**
 * @param latents [B, C, h, w] from the sampler, on any device
 * @param options.dtype to compute in, unless the VAE would overflow in it
 * @returns float32 [B, 3, H, W] in [0, 1], on the device
 */
export function decodeImages(vae: AutoencoderKL, latents: Tensor, { device, ...options }: DecodeOptions): Tensor {
  const [height, width] = latents.shape.slice(2) as [number, number];
  const { batchSize = imagesAtOnce(height * width * vae.downscale ** 2, device) } = options;
  if (!(batchSize >= 1)) throw new RangeError(`Expected 1 or more for batchSize but received ${batchSize}`);
  const { force_upcast: overflows, scaling_factor: scale, shift_factor: shift } = vae.config;
  const dtype = overflows && options.dtype === "float16" ? "float32" : options.dtype;
  return tidy(() => {
    const unscaled = latents.div(scale);
    const shifted = typeof shift === "number" && shift !== 0 ? unscaled.add(shift) : unscaled;
    const images = shifted
      .to({ dtype, device })
      .split(batchSize)
      .map((some) =>
        tidy(() => {
          const image = vae.decode(some).to({ dtype: "float32" });
          return image.div(2).add(0.5).clamp({ min: 0, max: 1 });
        }),
      );
    return images.length === 1 ? images[0]! : cat(images);
  });
}

/** How many images of so many pixels are decoded at a time. */
export const imagesAtOnce = (pixels: number, device: Device): number =>
  Math.max(1, Math.floor((device === "cpu" ? PIXELS_AT_ONCE : PIXELS_AT_ONCE_ON_DEVICE) / pixels));
