/**
 * Transformer2DModel: transformer blocks with cross-attention to the text on an image's pixels as tokens, with a
 * residual connection.
 */
import { Conv2d, GroupNorm, Linear, Module, type Weights } from "../nn/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { BasicTransformerBlock, type KeyValue } from "./attention.js";

export interface Transformer2DOptions {
  readonly channels: number;
  readonly heads: number;
  readonly layers: number;
  readonly crossAttentionDim: number;
  readonly groups: number;
  /** Projections stored as linear layers (SD 2, SDXL) or as 1x1 convolutions (SD 1). */
  readonly useLinearProjection: boolean;
  readonly upcastAttention: boolean;
}

/** Fixed in diffusers, regardless of norm_eps. */
const NORM_EPS = 1e-6;

export class Transformer2DModel extends Module {
  readonly blocks: readonly BasicTransformerBlock[];
  readonly #norm: GroupNorm;
  readonly #projIn: Linear | Conv2d;
  readonly #projOut: Linear | Conv2d;

  constructor(weights: Weights, options: Transformer2DOptions) {
    super(weights);
    const { channels, heads, crossAttentionDim, upcastAttention } = options;
    const projection = (at: Weights) =>
      options.useLinearProjection
        ? new Linear(at, channels, channels)
        : new Conv2d(at, channels, channels, { kernel: 1 });
    this.#norm = new GroupNorm(weights.at("norm"), options.groups, channels, NORM_EPS);
    this.#projIn = projection(weights.at("proj_in"));
    this.blocks = Array.from(
      { length: options.layers },
      (_, i) =>
        new BasicTransformerBlock(weights.at(`transformer_blocks.${i}`), {
          dim: channels,
          heads,
          crossAttentionDim,
          upcastAttention,
        }),
    );
    this.#projOut = projection(weights.at("proj_out"));
  }

  /**
   * [B, C, H, W] -> the same
   *
   * @param text keys and values of the text for each block
   */
  forward(x: Tensor, text: readonly KeyValue[]): Tensor {
    return tidy(() => {
      const [batch, channels, height, width] = x.shape as [number, number, number, number];
      const rows = (image: Tensor) => image.permute([0, 2, 3, 1]).reshape([-1, channels]); // [B * H * W, C]
      let tokens = tidy(() => project(this.#projIn, rows(this.#norm.forward(x))));
      this.blocks.forEach((block, i) => {
        const next = block.forward(tokens, batch, text[i]!);
        tokens.dispose();
        tokens = next;
      });
      tokens = project(this.#projOut, tokens).add_(rows(x));
      return tokens.view([batch, height, width, channels]).permute([0, 3, 1, 2]);
    });
  }
}

/** Applies a 1x1 convolution to tokens, as the linear layer it equals. */
function project(projection: Linear | Conv2d, tokens: Tensor): Tensor {
  return projection instanceof Linear ? projection.forward(tokens) : projection.forwardRows(tokens);
}
