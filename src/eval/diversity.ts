/**
 * How different images of one prompt are: the mean over pairs of a distance.
 *
 * Over all images of a prompt such a mean also falls because more of them are right, which makes them alike. Among the
 * right ones it tells whether what the prompt leaves open (ground, place, size, pose) still varies.
 *
 * Two distances, because they fail differently. 1 - cosine of CLIP's features sees what is drawn, but CLIP was trained
 * to see what captions name, which is little of what they leave open. The difference of pixels sees all of that, but not
 * what it means.
 */
import { avgPool2d, inference, type Tensor } from "../torch/index.js";

/** Images are compared at about this many pixels a side, so that fine grain does not count. */
const PIXELS = 64;

/** The mean of a distance over all pairs; null for fewer than two items. */
export function meanOverPairs<T>(items: readonly T[], distance: (a: T, b: T) => number): number | null {
  let sum = 0;
  items.forEach((a, i) => {
    for (const b of items.slice(i + 1)) sum += distance(a, b);
  });
  return items.length < 2 ? null : sum / pairsOf(items.length);
}

/** How many pairs a number of items makes. */
export const pairsOf = (count: number): number => (count < 2 ? 0 : (count * (count - 1)) / 2);

/** 1 - cosine of rows of length 1, see unitRows. */
export const cosineDistance = (a: Float32Array, b: Float32Array): number =>
  1 - a.reduce((dot, x, k) => dot + x * b[k]!, 0);

/** Mean absolute difference of pixels, in 0..1. */
export const pixelDistance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((sum, x, k) => sum + Math.abs(x - b[k]!), 0) / a.length;

/** The features of images, at length 1. @param features [B, 3, H, W] to [B, D] */
export const unitRows = (features: (images: Tensor) => Tensor, images: Tensor): Float32Array[] =>
  rowsOf(() => {
    const rows = features(images).to({ dtype: "float32", device: "cpu" });
    return rows.div(rows.norm({ dim: 1, keepdim: true }));
  });

/** The pixels of images [B, 3, H, W], shrunk to about 64 x 64 where they are larger. */
export const pixelRows = (images: Tensor): Float32Array[] =>
  rowsOf(() => {
    const kernel = Math.max(1, Math.floor(Math.min(images.size(2), images.size(3)) / PIXELS));
    const small = kernel === 1 ? images : avgPool2d(images, kernel);
    return small.to({ dtype: "float32", device: "cpu" }).reshape([images.size(0), -1]);
  });

/** One array for each row of a matrix [B, D]. */
function rowsOf(matrix: () => Tensor): Float32Array[] {
  const [count, width, flat] = inference(() => {
    const rows = matrix();
    return [rows.size(0), rows.size(1), rows.toTypedArray() as Float32Array];
  });
  return Array.from({ length: count }, (_, i) => flat.subarray(i * width, (i + 1) * width));
}
