/**
 * Images as bytes, as the renderer draws them, and as tensors, as models take them.
 */
import { tensor, tidy, type Tensor } from "../torch/index.js";
import { IMAGE_BYTES, IMAGE_SIZE } from "./image-format.js";

/**
 * Bytes as images for models.
 *
 * @param pixels rows of RGB, [N, 64, 64, 3] in 0..255
 * @returns [N, 3, 64, 64] in 0..1, channels-last in memory
 */
export function toImages(pixels: Uint8Array): Tensor {
  const count = pixels.length / IMAGE_BYTES;
  if (!Number.isInteger(count)) {
    throw new RangeError(`Expected a multiple of ${IMAGE_BYTES} bytes for pixels but received ${pixels.length}`);
  }
  // Rows of RGB are channels-last as they stand: the permutation is a view.
  return tidy(() =>
    tensor(pixels, { shape: [count, IMAGE_SIZE, IMAGE_SIZE, 3], dtype: "uint8" })
      .permute([0, 3, 1, 2])
      .to({ dtype: "float32" })
      .div(255),
  );
}

/** The other way: images in 0..1, clamped and rounded, to rows of RGB. */
export function toPixels(images: Tensor): Uint8Array {
  return tidy(() => {
    const rounded = images.detach().clamp({ min: 0, max: 1 }).mul(255).round().to({ dtype: "uint8" });
    return rounded.permute([0, 2, 3, 1]).contiguous({ memoryFormat: "contiguous" }).toTypedArray() as Uint8Array;
  });
}
