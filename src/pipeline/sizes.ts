/** The latents of an image's size. */
import { InputError } from "../base/errors.js";
import type { ImageSize } from "./diffusion-model.js";

export interface LatentSides {
  /** Pixels that one latent covers along a side. */
  readonly downscale: number;
  /** What sides in pixels are multiples of. */
  readonly multiple: number;
  /** Height and width in latents of an image whose size is not given. */
  readonly trained: readonly [height: number, width: number];
}

/**
 * Height and width of the latents of an image.
 *
 * @throws InputError for a side that is no multiple
 */
export function latentSides(
  { height, width }: ImageSize,
  { downscale, multiple, trained }: LatentSides,
): [height: number, width: number] {
  const side = (name: string, pixels: number | undefined, otherwise: number): number => {
    if (pixels === undefined) return otherwise;
    if (Number.isInteger(pixels) && pixels > 0 && pixels % multiple === 0) return pixels / downscale;
    throw new InputError(`Expected a positive multiple of ${multiple} for ${name} but received ${pixels}`);
  };
  return [side("height", height, trained[0]), side("width", width, trained[1])];
}
