/** Images as servers take them: PNG or JPEG. */
import type { Sharp } from "sharp";
import { toPixels } from "../../images/index.js";
import { tidy, type Tensor } from "../../torch/index.js";

/** The pixels of an image, [H, W, 3]. */
interface RawImage {
  readonly pixels: Uint8Array;
  readonly width: number;
  readonly height: number;
}

/** All images of a batch as bytes, so that nobody waits for a server with tensors in hand. */
function rawImages(images: Tensor): RawImage[] {
  const [count = 0, , height = 0, width = 0] = images.shape;
  return Array.from({ length: count }, (_, i) => ({
    pixels: tidy(() => toPixels(images.select(0, i))),
    width,
    height,
  }));
}

async function open({ pixels, width, height }: RawImage): Promise<Sharp> {
  const { default: sharp } = await import("sharp");
  return sharp(pixels, { raw: { width, height, channels: 3 } });
}

/** @param images [B, 3, H, W] in 0..1; may be disposed of once this has returned its promise */
export const toPngs = (images: Tensor): Promise<Buffer[]> =>
  Promise.all(rawImages(images).map(async (image) => (await open(image)).png().toBuffer()));

/**
 * @param images [B, 3, H, W] in 0..1; may be disposed of once this has returned its promise
 * @param quality 1 to 100
 */
export const toJpegs = (images: Tensor, quality: number): Promise<Buffer[]> =>
  Promise.all(rawImages(images).map(async (image) => (await open(image)).jpeg({ quality }).toBuffer()));

/** A PNG whose longer side has `size` pixels; the same one for null. */
export async function resizePng(png: Buffer, size: number | null): Promise<Buffer> {
  if (size === null) return png;
  const { default: sharp } = await import("sharp");
  return sharp(png).resize({ width: size, height: size, fit: "inside" }).png().toBuffer();
}
