/**
 * The convolutional parts that UNet and VAE share: ResnetBlock2D, Downsample2D and Upsample2D, under diffusers' names.
 * All tensors are channels-last.
 *
 * Sums are added in place to the output of the preceding convolution: a convolution's gradient does not need its
 * output.
 */
import { Conv2d, GroupNorm, Linear, Module, type Weights } from "../nn/index.js";
import { interpolateNearest, pad, tidy, type Tensor } from "../torch/index.js";
import { siluOfFresh } from "./activations.js";

export interface ResnetBlockOptions {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly groups: number;
  readonly eps: number;
  /** Width of the time embedding; undefined for blocks without one (VAE). */
  readonly timeEmbedDim?: number | undefined;
}

/** Two rounds of GroupNorm, SiLU and a 3x3 convolution, with a residual connection. */
export class ResnetBlock2D extends Module {
  readonly #norm1: GroupNorm;
  readonly #conv1: Conv2d;
  readonly #timeEmbProj: Linear | undefined;
  readonly #norm2: GroupNorm;
  readonly #conv2: Conv2d;
  readonly #convShortcut: Conv2d | undefined;

  constructor(weights: Weights, { inChannels, outChannels, groups, eps, timeEmbedDim }: ResnetBlockOptions) {
    super(weights);
    this.#norm1 = new GroupNorm(weights.at("norm1"), groups, inChannels, eps);
    this.#conv1 = new Conv2d(weights.at("conv1"), inChannels, outChannels);
    if (timeEmbedDim !== undefined) {
      this.#timeEmbProj = new Linear(weights.at("time_emb_proj"), timeEmbedDim, outChannels);
    }
    this.#norm2 = new GroupNorm(weights.at("norm2"), groups, outChannels, eps);
    this.#conv2 = new Conv2d(weights.at("conv2"), outChannels, outChannels);
    if (inChannels !== outChannels) {
      this.#convShortcut = new Conv2d(weights.at("conv_shortcut"), inChannels, outChannels, { kernel: 1 });
    }
  }

  /**
   * [B, inChannels, H, W] -> [B, outChannels, H, W]
   *
   * @param activatedTime SiLU of the time embedding, [B or 1, timeEmbedDim]: the same for every block, so computed once
   */
  forward(x: Tensor, activatedTime?: Tensor): Tensor {
    return tidy(() => {
      // Each convolution has its own scope, because at full size a feature map of the VAE is half a gigabyte.
      const h = tidy(() => this.#conv1.forward(siluOfFresh(this.#norm1.forward(x))));
      if (this.#timeEmbProj !== undefined) {
        if (activatedTime === undefined)
          throw new Error(`Expected a time embedding for ${this.path} but received none`);
        const shift = this.#timeEmbProj.forward(activatedTime); // [B or 1, outChannels]
        h.add_(shift.unsqueeze(-1).unsqueeze(-1));
      }
      const activated = tidy(() => siluOfFresh(this.#norm2.forward(h)));
      h.dispose();
      const out = this.#conv2.forward(activated);
      activated.dispose();
      return out.add_(this.#convShortcut === undefined ? x : this.#convShortcut.forward(x));
    });
  }
}

/** Halves height and width by a convolution of stride 2. */
export class Downsample2D extends Module {
  readonly #conv: Conv2d;
  readonly #padding: 0 | 1;

  /** @param padding 1 as in the UNet, or 0 as in the VAE: then one row and column are added below and to the right */
  constructor(weights: Weights, channels: number, padding: 0 | 1) {
    super(weights);
    this.#padding = padding;
    this.#conv = new Conv2d(weights.at("conv"), channels, channels, { stride: 2, padding });
  }

  /** [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)], or floor with padding 0 */
  forward(x: Tensor): Tensor {
    return tidy(() => this.#conv.forward(this.#padding === 0 ? pad(x, [0, 1, 0, 1], 0) : x));
  }
}

/** Nearest-neighbour upsampling by 2, or to a given size, followed by a 3x3 convolution. */
export class Upsample2D extends Module {
  readonly #conv: Conv2d;

  constructor(weights: Weights, channels: number) {
    super(weights);
    this.#conv = new Conv2d(weights.at("conv"), channels, channels);
  }

  /** [B, C, H, W] -> [B, C, 2H, 2W], or [B, C, ...size] */
  forward(x: Tensor, size?: readonly [number, number]): Tensor {
    return tidy(() => this.#conv.forward(interpolateNearest(x, size === undefined ? { scale: 2 } : { size })));
  }
}
