/** A layer that a LoRA adapts, as files have it. */
import type { Tensor } from "../torch/index.js";
import type { LoraPart } from "./names.js";

/** One adapted layer of a file. */
export interface LoraLayer {
  readonly part: LoraPart;
  /** The layer's path in the part, in diffusers' and transformers' names. */
  readonly path: string;
  /** float32 [rank, inFeatures]; for a convolution [rank, inChannels * kernel height * kernel width] */
  readonly a: Tensor;
  /** float32 [outFeatures, rank] */
  readonly b: Tensor;
  /** B A is scaled by alpha / rank. */
  readonly alpha: number;
  /** For a convolution: A is stored as a kernel of this size, B as a 1x1 kernel. */
  readonly kernel?: Kernel | undefined;
}

export type Kernel = readonly [height: number, width: number];
