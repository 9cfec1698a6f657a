/**
 * Encoder and Decoder of the VAE, under diffusers' names: resnets at each resolution, and one attention layer in the
 * middle. All images and features are channels-last.
 */
import { Conv2d, GroupNorm, Linear, Module, type Weights } from "../nn/index.js";
import { scaledDotProductAttention, tidy, type Tensor } from "../torch/index.js";
import { siluOfFresh } from "./activations.js";
import { Downsample2D, ResnetBlock2D, Upsample2D } from "./resnet.js";

const EPS = 1e-6;

export interface VaeOptions {
  /** Channels at each resolution, the highest first. */
  readonly channels: readonly number[];
  readonly layersPerBlock: number;
  readonly groups: number;
  readonly midAttention: boolean;
}

/** Self-attention over pixels with a single head and a residual connection. */
class VaeAttention extends Module {
  readonly #groupNorm: GroupNorm;
  readonly #toQ: Linear;
  readonly #toK: Linear;
  readonly #toV: Linear;
  readonly #toOut: Linear;

  constructor(weights: Weights, channels: number, groups: number) {
    super(weights);
    // Checkpoints from before diffusers 0.13 (SD 1.4 among them) use other names.
    const old = !weights.has("to_q.weight") && weights.has("query.weight");
    const names = old ? ["query", "key", "value", "proj_attn"] : ["to_q", "to_k", "to_v", "to_out.0"];
    const linear = (i: number) => new Linear(weights.at(names[i]!), channels, channels);
    this.#groupNorm = new GroupNorm(weights.at("group_norm"), groups, channels, EPS);
    [this.#toQ, this.#toK, this.#toV, this.#toOut] = [linear(0), linear(1), linear(2), linear(3)];
  }

  /** [B, C, H, W] -> the same */
  forward(x: Tensor): Tensor {
    return tidy(() => {
      const [batch, channels, height, width] = x.shape as [number, number, number, number];
      // With channels-last, conversion to tokens and back is a view: [B, H * W, C].
      const tokens = this.#groupNorm
        .forward(x)
        .permute([0, 2, 3, 1])
        .reshape([batch, height * width, channels]);
      const [q, k, v] = [this.#toQ, this.#toK, this.#toV].map((layer) => layer.forward(tokens).unsqueeze(1)) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const attended = this.#toOut.forward(scaledDotProductAttention(q, k, v).squeeze(1));
      return attended.reshape([batch, height, width, channels]).permute([0, 3, 1, 2]).add_(x);
    });
  }
}

/** Resnet, attention, resnet at the lowest resolution. */
class VaeMidBlock extends Module {
  readonly #layers: readonly { forward(x: Tensor): Tensor }[];

  constructor(weights: Weights, channels: number, { groups, midAttention }: VaeOptions) {
    super(weights);
    const resnet = (i: number) =>
      new ResnetBlock2D(weights.at(`resnets.${i}`), { inChannels: channels, outChannels: channels, groups, eps: EPS });
    const attention = midAttention ? [new VaeAttention(weights.at("attentions.0"), channels, groups)] : [];
    this.#layers = [resnet(0), ...attention, resnet(1)];
  }

  forward(x: Tensor): Tensor {
    return chain(this.#layers, x);
  }
}

export class Encoder extends Module {
  readonly #layers: readonly { forward(x: Tensor): Tensor }[];
  readonly #convNormOut: GroupNorm;
  readonly #convOut: Conv2d;

  /** @param momentChannels twice the latent's: mean and log-variance */
  constructor(weights: Weights, inChannels: number, momentChannels: number, options: VaeOptions) {
    super(weights);
    const { channels, layersPerBlock, groups } = options;
    const last = channels.at(-1)!;
    const layers: { forward(x: Tensor): Tensor }[] = [new Conv2d(weights.at("conv_in"), inChannels, channels[0]!)];
    channels.forEach((outChannels, i) => {
      const block = weights.at(`down_blocks.${i}`);
      for (let j = 0; j < layersPerBlock; j++) {
        const before = j === 0 ? (channels[i - 1] ?? outChannels) : outChannels;
        layers.push(new ResnetBlock2D(block.at(`resnets.${j}`), { inChannels: before, outChannels, groups, eps: EPS }));
      }
      if (i < channels.length - 1) layers.push(new Downsample2D(block.at("downsamplers.0"), outChannels, 0));
    });
    layers.push(new VaeMidBlock(weights.at("mid_block"), last, options));
    this.#layers = layers;
    this.#convNormOut = new GroupNorm(weights.at("conv_norm_out"), groups, last, EPS);
    this.#convOut = new Conv2d(weights.at("conv_out"), last, momentChannels);
  }

  /** [B, inChannels, H, W] -> [B, momentChannels, H / f, W / f] */
  forward(x: Tensor): Tensor {
    return tidy(() =>
      this.#convOut.forward(tidy(() => siluOfFresh(this.#convNormOut.forward(chain(this.#layers, x))))),
    );
  }
}

export class Decoder extends Module {
  readonly #layers: readonly { forward(x: Tensor): Tensor }[];
  readonly #convNormOut: GroupNorm;
  readonly #convOut: Conv2d;

  constructor(weights: Weights, latentChannels: number, outChannels: number, options: VaeOptions) {
    super(weights);
    const { layersPerBlock, groups } = options;
    const channels = options.channels.toReversed(); // the lowest resolution first
    const [first, last] = [channels[0]!, channels.at(-1)!];
    const layers: { forward(x: Tensor): Tensor }[] = [
      new Conv2d(weights.at("conv_in"), latentChannels, first),
      new VaeMidBlock(weights.at("mid_block"), first, options),
    ];
    channels.forEach((width, i) => {
      const block = weights.at(`up_blocks.${i}`);
      for (let j = 0; j <= layersPerBlock; j++) {
        const before = j === 0 ? (channels[i - 1] ?? width) : width;
        const sizes = { inChannels: before, outChannels: width, groups, eps: EPS };
        layers.push(new ResnetBlock2D(block.at(`resnets.${j}`), sizes));
      }
      if (i < channels.length - 1) layers.push(new Upsample2D(block.at("upsamplers.0"), width));
    });
    this.#layers = layers;
    this.#convNormOut = new GroupNorm(weights.at("conv_norm_out"), groups, last, EPS);
    this.#convOut = new Conv2d(weights.at("conv_out"), last, outChannels);
  }

  /** [B, latentChannels, h, w] -> [B, outChannels, h * f, w * f] */
  forward(z: Tensor): Tensor {
    return tidy(() =>
      this.#convOut.forward(tidy(() => siluOfFresh(this.#convNormOut.forward(chain(this.#layers, z))))),
    );
  }
}

/** Runs layers in sequence; each output is freed once the next is computed. */
function chain(layers: readonly { forward(x: Tensor): Tensor }[], input: Tensor): Tensor {
  return layers.reduce((x, layer) => {
    const y = layer.forward(x);
    if (x !== input) x.dispose();
    return y;
  }, input);
}
