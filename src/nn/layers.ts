/**
 * The layers of all models here. Names and defaults are PyTorch's.
 *
 * Departure from PyTorch: a layer computes in the dtype of its input. Parameters of another dtype are converted for the
 * call, so that weights can be stored in half precision on a CPU that computes in float32.
 */
import { conv2d, embedding, groupNorm, layerNorm, linear, rmsNorm, tidy, type Tensor } from "../torch/index.js";
import { fanInUniform, normal, onesInit, zerosInit, type Init } from "./init.js";
import { Module, type Weights } from "./module.js";

/** What an adapter adds to the output of a linear layer or a convolution; see src/lora. */
export interface LayerAdapter {
  /**
   * @param input the layer's input, [..., inFeatures]
   * @param output the layer's own output, [..., outFeatures]
   * @returns the sum of `output` and the adapter's output
   */
  addTo(input: Tensor, output: Tensor): Tensor;

  /** The same for a convolution larger than 1x1, with [B, C, H, W] as input and output. */
  addToImage(input: Tensor, output: Tensor, options: { readonly stride: number; readonly padding: number }): Tensor;
}

/** Runs an operator with a layer's parameters in its input's dtype. */
function inDtypeOf(
  x: Tensor,
  { weight, bias }: { readonly weight: Tensor; readonly bias: Tensor | undefined },
  run: (weight: Tensor, bias: Tensor | undefined) => Tensor,
): Tensor {
  const { dtype } = x;
  if (weight.dtype === dtype) return run(weight, bias);
  return tidy(() => run(weight.to({ dtype }), bias?.to({ dtype })));
}

/** Options of Linear. `bias` defaults to true; the inits apply to fresh weights only. */
export interface LinearOptions {
  readonly bias?: boolean;
  readonly init?: Init;
  readonly biasInit?: Init;
}

/** y = x W^T + b, plus the outputs of its adapters. */
export class Linear extends Module {
  readonly weight: Tensor; // [outFeatures, inFeatures]
  readonly bias: Tensor | undefined; // [outFeatures]
  /** In the order they were added. */
  readonly adapters: LayerAdapter[] = [];
  readonly inFeatures: number;
  readonly outFeatures: number;

  constructor(
    weights: Weights,
    inFeatures: number,
    outFeatures: number,
    { bias = true, init = fanInUniform(inFeatures), biasInit = fanInUniform(inFeatures) }: LinearOptions = {},
  ) {
    super(weights);
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.weight = weights.parameter("weight", [outFeatures, inFeatures], init);
    this.bias = bias ? weights.parameter("bias", [outFeatures], biasInit) : undefined;
  }

  /** [..., inFeatures] -> [..., outFeatures] */
  forward(x: Tensor): Tensor {
    let y = inDtypeOf(x, this, (weight, bias) => linear(x, weight, bias));
    for (const adapter of this.adapters) y = adapter.addTo(x, y);
    return y;
  }
}

/** Options of Conv2d. Defaults: kernel 3, stride 1, padding (kernel - 1) / 2, bias true. */
export interface Conv2dOptions {
  readonly kernel?: number;
  readonly stride?: number;
  readonly padding?: number;
  readonly bias?: boolean;
  readonly init?: Init;
}

/** A 2D convolution with a square kernel, in channels-last memory format, plus the outputs of its adapters. */
export class Conv2d extends Module {
  readonly weight: Tensor; // [outChannels, inChannels, kernel, kernel], channels-last
  readonly bias: Tensor | undefined; // [outChannels]
  /** In the order they were added. */
  readonly adapters: LayerAdapter[] = [];
  readonly inChannels: number;
  readonly outChannels: number;
  readonly #options: { readonly stride: number; readonly padding: number };

  /** By default a 3x3 convolution that preserves height and width. */
  constructor(
    weights: Weights,
    inChannels: number,
    outChannels: number,
    { kernel = 3, stride = 1, padding = (kernel - 1) / 2, bias = true, init }: Conv2dOptions = {},
  ) {
    super(weights);
    const fanIn = inChannels * kernel * kernel;
    this.weight = weights.parameter("weight", [outChannels, inChannels, kernel, kernel], init ?? fanInUniform(fanIn));
    this.bias = bias ? weights.parameter("bias", [outChannels], fanInUniform(fanIn)) : undefined;
    this.inChannels = inChannels;
    this.outChannels = outChannels;
    this.#options = { stride, padding };
  }

  /** [B, inChannels, H, W] -> [B, outChannels, H', W'] */
  forward(x: Tensor): Tensor {
    const y = inDtypeOf(x, this, (weight, bias) => conv2d(x, weight, bias, this.#options));
    return this.adapters.length === 0 ? y : this.#withAdapters(x, y);
  }

  /** [N, inChannels] -> [N, outChannels]: a 1x1 convolution on pixels as rows. */
  forwardRows(rows: Tensor): Tensor {
    const matrix = [this.outChannels, this.inChannels];
    let y = inDtypeOf(rows, this, (weight, bias) => linear(rows, weight.view(matrix), bias));
    for (const adapter of this.adapters) y = adapter.addTo(rows, y);
    return y;
  }

  #withAdapters(x: Tensor, y: Tensor): Tensor {
    if (this.weight.size(-1) !== 1) {
      return this.adapters.reduce((output, adapter) => adapter.addToImage(x, output, this.#options), y);
    }
    const [batch, , height, width] = x.shape as [number, number, number, number];
    const rows = (image: Tensor, channels: number) => image.permute([0, 2, 3, 1]).reshape([-1, channels]);
    const input = rows(x, this.inChannels);
    let output = rows(y, this.outChannels);
    for (const adapter of this.adapters) output = adapter.addTo(input, output);
    return output.view([batch, height, width, this.outChannels]).permute([0, 3, 1, 2]);
  }
}

/** Images with at most this many pixels are normalised in another memory format; see GroupNorm.forward. */
const FEW_PIXELS = 4;

/** Group normalisation (Wu and He 2018, arXiv 1803.08494) with an affine map per channel. */
export class GroupNorm extends Module {
  readonly weight: Tensor; // [channels]
  readonly bias: Tensor; // [channels]
  readonly groups: number;
  readonly channels: number;
  readonly eps: number;

  constructor(weights: Weights, groups: number, channels: number, eps = 1e-5) {
    super(weights);
    if (channels % groups !== 0) {
      throw new Error(
        `Expected a multiple of ${groups} groups for channels of ${weights.path} but received ${channels}`,
      );
    }
    this.groups = groups;
    this.channels = channels;
    this.eps = eps;
    this.weight = weights.parameter("weight", [channels], onesInit);
    this.bias = weights.parameter("bias", [channels], zerosInit);
  }

  /** [B, channels, H, W] -> the same */
  forward(x: Tensor): Tensor {
    const norm = (y: Tensor) => inDtypeOf(y, this, (weight, bias) => groupNorm(y, this.groups, weight, bias, this.eps));
    // libtorch's channels-last kernel computes the variance as a difference of sums. With few pixels
    // this cancels: errors of 4e-3 for a single pixel. For [B, channels, pixels] it uses another kernel.
    if (x.size(2) * x.size(3) <= FEW_PIXELS) {
      return tidy(() => norm(x.flatten(2)).view(x.shape).contiguous({ memoryFormat: "channelsLast" }));
    }
    return norm(x);
  }
}

/** Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over the last dimension, with an affine map. */
export class LayerNorm extends Module {
  readonly weight: Tensor; // [features]
  readonly bias: Tensor; // [features]
  readonly features: number;
  readonly eps: number;
  readonly #shape: readonly number[];

  constructor(weights: Weights, features: number, eps = 1e-5) {
    super(weights);
    this.features = features;
    this.eps = eps;
    this.#shape = [features];
    this.weight = weights.parameter("weight", [features], onesInit);
    this.bias = weights.parameter("bias", [features], zerosInit);
  }

  /** [..., features] -> the same */
  forward(x: Tensor): Tensor {
    return inDtypeOf(x, this, (weight, bias) => layerNorm(x, this.#shape, weight, bias, this.eps));
  }
}

/** Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) over the last dimension. */
export class RMSNorm extends Module {
  readonly weight: Tensor; // [features]
  readonly features: number;
  readonly eps: number;

  constructor(weights: Weights, features: number, eps: number) {
    super(weights);
    this.features = features;
    this.eps = eps;
    this.weight = weights.parameter("weight", [features], onesInit);
  }

  /** [..., features] -> the same */
  forward(x: Tensor): Tensor {
    const { weight } = this;
    return inDtypeOf(x, { weight, bias: undefined }, (own) => rmsNorm(x, own, this.eps));
  }
}

/** A table of vectors, looked up by id. */
export class Embedding extends Module {
  readonly weight: Tensor; // [count, features]
  readonly count: number;
  readonly features: number;

  constructor(weights: Weights, count: number, features: number, { init = normal(1) }: { init?: Init } = {}) {
    super(weights);
    this.count = count;
    this.features = features;
    this.weight = weights.parameter("weight", [count, features], init);
  }

  /** int64 [...] -> [..., features], in the dtype of the weight */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }
}
