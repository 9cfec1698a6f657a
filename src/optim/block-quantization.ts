/**
 * Block-wise dynamic quantisation to 8 bits. Source: "8-bit Optimizers via Block-wise Quantization" (Dettmers et al.
 * 2022, arXiv 2110.02861), sections 1.2 and 2. Each block of 256 elements is divided by its largest magnitude, and each
 * element stored as the index of the nearest of 256 numbers in [-1, 1] or [0, 1]. These lie densest near 0 and reach
 * down over seven powers of ten.
 *
 * Departures: blocks of 256, as later versions of the authors' bitsandbytes have, instead of 2,048. And in the unsigned
 * map a positive element is never stored as 0, but at least as the smallest number: Adam divides by the root of the
 * second moment, so that a small one that became 0 would make a huge step ("Memory Efficient Optimizers with 4-bit
 * States", Li et al. 2023, arXiv 2309.01507, section 3, on the point zero).
 */
import { bucketize, full, inference, keep, pad, tensor, type Device, type Tensor } from "../torch/index.js";

/** Elements that share one scale. */
export const BLOCK = 256;

/** Powers of ten below 1 that a map reaches: 7 of its bits can be a dynamic exponent. */
const DECADES = 7;

/** Keeps a block of zeros from being divided by 0. */
const SMALLEST = 2 ** -126;

/**
 * The 256 numbers of a map, rising. The bits of an index are a sign (signed map), then zeros that count powers of ten,
 * then a 1, then a fraction: with one bit less for each power of ten. The fraction divides [0.1, 1] into equal parts, and
 * stands for the middle of its part. The two indices that are left over are 0 and 1.
 */
export function dynamicMap({ signed }: { signed: boolean }): number[] {
  const magnitudes = Array.from({ length: DECADES }, (_, i) => {
    const parts = 2 ** (signed ? i : i + 1);
    return Array.from({ length: parts }, (_, part) => 10 ** (i + 1 - DECADES) * (0.1 + (0.9 * (part + 0.5)) / parts));
  }).flat();
  const negative = signed ? magnitudes.map((value) => -value) : [];
  return [...negative, 0, ...magnitudes, 1].sort((a, b) => a - b);
}

/** A tensor in 8 bits. */
export interface Quantized {
  /** Indices into the map, uint8 [n]. */
  readonly codes: Tensor;
  /** The largest magnitude of each block, float32 [ceil(n / 256)]. */
  readonly absmax: Tensor;
}

/** Quantises with one map on one device; owns the map. */
export class BlockQuantizer {
  readonly #signed: boolean;
  /** float32 [256] */
  readonly #values: Tensor;
  /** Halfway between neighbours: float32 [255]. */
  readonly #midpoints: Tensor;

  constructor(signed: boolean, device: Device) {
    const map = dynamicMap({ signed });
    this.#signed = signed;
    this.#values = keep(tensor(map, { device }));
    this.#midpoints = keep(
      tensor(
        map.slice(1).map((value, i) => (map[i]! + value) / 2),
        { device },
      ),
    );
  }

  /** The codes of zeros. */
  zeroCodes(shape: readonly number[], device: Device): Tensor {
    return full(shape, this.#signed ? 127 : 0, { dtype: "uint8", device });
  }

  /** Stores x, float32 [n], in `into`, whose last block may be shorter. */
  quantize(x: Tensor, { codes, absmax }: Quantized): void {
    inference(() => {
      const blocks = inBlocks(x);
      absmax.copy_(blocks.abs().amax({ dim: 1 }));
      const scaled = blocks.div(absmax.clamp({ min: SMALLEST }).unsqueeze(1));
      const nearest = bucketize(scaled, this.#midpoints, { outInt32: true }).to({ dtype: "uint8" });
      const stored = this.#signed ? nearest : nearest.maximum(blocks.gt(0).to({ dtype: "uint8" }));
      codes.copy_(stored.flatten().narrow(0, 0, x.numel));
    });
  }

  /** float32 [n], owned by the caller */
  dequantize({ codes, absmax }: Quantized): Tensor {
    return inference(() => {
      const values = inBlocks(this.#values.indexSelect(0, codes.to({ dtype: "int32" })));
      return values.mul_(absmax.unsqueeze(1)).flatten().narrow(0, 0, codes.numel);
    });
  }

  dispose(): void {
    this.#values.dispose();
    this.#midpoints.dispose();
  }
}

/** [n] -> [blocks, 256], filled up with zeros */
function inBlocks(x: Tensor): Tensor {
  const missing = -x.numel & (BLOCK - 1);
  return (missing === 0 ? x : pad(x, [0, missing])).view([-1, BLOCK]);
}
