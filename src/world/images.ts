/**
 * Pictures as bytes, as the renderer draws them, and as tensors, as models see them.
 */
import { tensor, tidy, type Tensor } from "../torch/index.js";
import { PICTURE_BYTES, PICTURE_SIZE } from "./picture-format.js";

/**
 * Pictures as images for models.
 *
 * @param pictures rows of RGB, [N, 64, 64, 3] in 0..255
 * @returns [N, 3, 64, 64] in 0..1, channels-last in memory
 */
export function toImages(pictures: Uint8Array): Tensor {
  const count = pictures.length / PICTURE_BYTES;
  if (!Number.isInteger(count)) {
    throw new RangeError(`Expected a multiple of ${PICTURE_BYTES} bytes for pictures but received ${pictures.length}`);
  }
  // Rows of RGB are channels-last as they stand: the permutation is a view.
  return tidy(() =>
    tensor(pictures, { shape: [count, PICTURE_SIZE, PICTURE_SIZE, 3], dtype: "uint8" })
      .permute([0, 3, 1, 2])
      .to({ dtype: "float32" })
      .div(255),
  );
}

/** The other way: images in 0..1, clamped and rounded, to rows of RGB. */
export function toPictures(images: Tensor): Uint8Array {
  let bytes = new Uint8Array(0);
  tidy(() => {
    const rounded = images.detach().clamp({ min: 0, max: 1 }).mul(255).round().to({ dtype: "uint8" });
    bytes = rounded.permute([0, 2, 3, 1]).contiguous({ memoryFormat: "contiguous" }).toTypedArray() as typeof bytes;
  });
  return bytes;
}
