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
import { full, inference, keep, pad, tensor, type Device, type Tensor } from "../torch/index.js";

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

/** Floats with the same upper 16 bits: sign, exponent and 7 bits of the fraction. */
const CELLS = 2 ** 16;

/**
 * For each cell, how many boundaries lie below all of its numbers, and the boundary that lies among them, if there is
 * one: those of a map are further apart than a cell is wide. This finds the nearest number of the map in a fifth of the
 * time of a binary search.
 */
function cellsOf(boundaries: readonly number[]): { below: Uint8Array; within: Float32Array } {
  const [below, within] = [new Uint8Array(CELLS), new Float32Array(CELLS).fill(Infinity)];
  const [bits, floats] = [new Uint32Array(1), new Float32Array(1)];
  const bytes = new Uint8Array(floats.buffer);
  const floatOf = (upper: number, lower: number): number => {
    bits[0] = upper * 2 ** 16 + lower;
    bytes.set(new Uint8Array(bits.buffer));
    return floats[0]!;
  };
  let count = 0;
  for (let i = 0; i < CELLS; i++) {
    // In the order of their numbers: negative cells rise as their bits fall. Those of NaN are compared with nothing.
    const cell = i < CELLS / 2 ? CELLS - 1 - i : i - CELLS / 2;
    const [one, other] = [floatOf(cell, 0), floatOf(cell, 2 ** 16 - 1)];
    while (boundaries[count]! < Math.min(one, other)) count++;
    // As an index the upper half is a signed number.
    const index = (cell + CELLS / 2) % CELLS;
    below[index] = count;
    if (boundaries[count]! < Math.max(one, other)) within[index] = boundaries[count]!;
  }
  return { below, within };
}

/** Quantises with one map on one device; owns its tables. */
export class BlockQuantizer {
  readonly #signed: boolean;
  /** The map, float32 [256]. */
  readonly #values: Tensor;
  /** See cellsOf: uint8 and float32 [65536]. */
  readonly #below: Tensor;
  readonly #within: Tensor;

  constructor(signed: boolean, device: Device) {
    const map = dynamicMap({ signed });
    const { below, within } = cellsOf(map.slice(1).map((value, i) => Math.fround((map[i]! + value) / 2)));
    this.#signed = signed;
    this.#values = keep(tensor(map, { device }));
    this.#below = keep(tensor(below, { device }));
    this.#within = keep(tensor(within, { device }));
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
      const nearest = this.#nearest(scaled);
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
    for (const table of [this.#values, this.#below, this.#within]) table.dispose();
  }

  /** Indices of the nearest numbers of the map: uint8, in the shape of x. */
  #nearest(x: Tensor): Tensor {
    const upper = x.viewAs("int16").view([-1, 2]).select(1, 1);
    const cells = upper.to({ dtype: "int32" }).add_(CELLS / 2);
    const above = x.flatten().gt(this.#within.indexSelect(0, cells)).to({ dtype: "uint8" });
    return this.#below.indexSelect(0, cells).add_(above).view(x.shape);
  }
}

/** [n] -> [blocks, 256], filled up with zeros */
function inBlocks(x: Tensor): Tensor {
  const missing = -x.numel & (BLOCK - 1);
  return (missing === 0 ? x : pad(x, [0, missing])).view([-1, BLOCK]);
}
