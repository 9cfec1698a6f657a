/** Layers without state, activations, resizing, and losses. */
import { inWords, TorchError } from "./error.js";
import { tidy } from "./memory.js";
import { torchVersion } from "./runtime.js";
import { aten, type Tensor } from "./tensor.js";

/** x [..., in], weight [out, in], bias [out] -> [..., out]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor {
  return aten.linear(x, weight, bias);
}

const pair = (value: number | readonly [number, number]): readonly number[] =>
  typeof value === "number" ? [value, value] : value;

/** x [B, in, H, W], weight [out, in / groups, kh, kw], bias [out]. */
export function conv2d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor | null,
  {
    stride = 1,
    padding = 0,
    dilation = 1,
    groups = 1,
  }: {
    stride?: number | readonly [number, number];
    padding?: number | readonly [number, number];
    dilation?: number | readonly [number, number];
    groups?: number;
  } = {},
): Tensor {
  return aten.conv2d(x, weight, bias, pair(stride), pair(padding), pair(dilation), groups);
}

/**
 * x [B, C, ...], weight and bias [C].
 *
 * libtorch 1.x sums in bfloat16 on a CPU, which a channels-last image of 64 x 64 pixels makes wrong by half of its largest
 * number. There it is computed in float32, and rounded.
 */
export function groupNorm(x: Tensor, groups: number, weight?: Tensor | null, bias?: Tensor | null, eps = 1e-5): Tensor {
  if (x.dtype !== "bfloat16" || x.device !== "cpu" || !isLibtorch1())
    return aten.groupNorm(x, groups, weight, bias, eps);
  return tidy(() => {
    const [wide, w, b] = [x, weight, bias].map((t) => t?.to({ dtype: "float32" }));
    return aten.groupNorm(wide!, groups, w, b, eps).to({ dtype: x.dtype });
  });
}

let libtorch1: boolean | undefined;
const isLibtorch1 = (): boolean => (libtorch1 ??= torchVersion().startsWith("1."));

/** Over the last dimensions, which have the sizes `shape`. */
export function layerNorm(
  x: Tensor,
  shape: readonly number[],
  weight?: Tensor | null,
  bias?: Tensor | null,
  eps = 1e-5,
): Tensor {
  return aten.layerNorm(x, shape, weight, bias, eps);
}

/**
 * x / sqrt(mean of x^2 + eps) over the last dimension, times weight [D]. In float32 up to the weight, as transformers and
 * diffusers compute it; on every libtorch, as 1.13 has no operator for it.
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
  return tidy(() => {
    const wide = x.to({ dtype: "float32" });
    const scale = wide.square().mean({ dim: -1, keepdim: true }).add(eps).rsqrt();
    return wide.mul(scale).to({ dtype: x.dtype }).mul(weight);
  });
}

/** max(x, 0) */
export function relu(x: Tensor): Tensor {
  return aten.relu(x);
}

/** x sigmoid(x) */
export function silu(x: Tensor): Tensor {
  return aten.silu(x);
}

/** silu in place. Returns `x`. */
export function silu_(x: Tensor): Tensor {
  return aten.silu_(x);
}

/** x times the normal distribution function of x, exact or by a tanh approximation. */
export function gelu(x: Tensor, { approximate = "none" }: { approximate?: "none" | "tanh" } = {}): Tensor {
  return aten.gelu(x, approximate);
}

/** 1 / (1 + exp(-x)) */
export function sigmoid(x: Tensor): Tensor {
  return aten.sigmoid(x);
}

/** exp(x) / sum exp(x) along a dimension. */
export function softmax(x: Tensor, dim: number): Tensor {
  return aten.softmax(x, dim);
}

/** log softmax(x) along a dimension. */
export function logSoftmax(x: Tensor, dim: number): Tensor {
  return aten.logSoftmax(x, dim);
}

/** weight [vocabulary, D], ids [...] of int64 or int32 -> [..., D]. */
export function embedding(weight: Tensor, ids: Tensor): Tensor {
  return aten.embedding(weight, ids);
}

/** Pads with a constant; `pads` in pairs (before, after) from the last dimension backwards. */
export function pad(x: Tensor, pads: readonly number[], value = 0): Tensor {
  return aten.pad(x, pads, value);
}

/** x [B, C, H, W], enlarged by `scale` or to `size`. */
export function interpolateNearest(x: Tensor, target: { scale: number } | { size: readonly [number, number] }): Tensor {
  if ("size" in target) return aten.upsampleNearest2d(x, target.size);
  return aten.upsampleNearest2d(x, [Math.floor(x.size(-2) * target.scale), Math.floor(x.size(-1) * target.scale)]);
}

/** x [B, C, H, W] to `size`, half-pixel centres; antialias is what image libraries do when they shrink. */
export function interpolateBicubic(
  x: Tensor,
  size: readonly [number, number],
  { antialias = false }: { antialias?: boolean } = {},
): Tensor {
  return antialias ? aten.upsampleBicubic2dAntialias(x, size, false) : aten.upsampleBicubic2d(x, size, false);
}

/** x [B, C, H, W]. */
export function avgPool2d(
  x: Tensor,
  kernel: number,
  { stride = kernel, padding = 0 }: { stride?: number; padding?: number } = {},
): Tensor {
  return aten.avgPool2d(x, pair(kernel), pair(stride), pair(padding));
}

/** at::Reduction. */
const REDUCTION = { none: 0, mean: 1, sum: 2 } as const;
/** How a loss reduces its elements. Default "mean". */
export type Reduction = keyof typeof REDUCTION;

function reductionCode(reduction: Reduction, where: string): number {
  if (typeof reduction === "string" && Object.hasOwn(REDUCTION, reduction)) return REDUCTION[reduction];
  throw new TorchError(`Expected none, mean or sum for the reduction of ${where} but received ${inWords(reduction)}`);
}

/** Squared error, elementwise or reduced. */
export function mseLoss(x: Tensor, target: Tensor, { reduction = "mean" }: { reduction?: Reduction } = {}): Tensor {
  return aten.mseLoss(x, target, reductionCode(reduction, "mseLoss"));
}

/** logits [B, classes, ...], target [B, ...] of int64 class indices. */
export function crossEntropy(
  logits: Tensor,
  target: Tensor,
  { reduction = "mean" }: { reduction?: Reduction } = {},
): Tensor {
  return aten.crossEntropyLoss(logits, target, null, reductionCode(reduction, "crossEntropy"));
}
