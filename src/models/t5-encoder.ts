/**
 * T5EncoderModel (Raffel et al. 2020, arXiv 1910.10683): the third text encoder of Stable Diffusion 3. Pre-norm layers
 * without biases; attention does not scale its scores, and adds to them a number for each head and distance. Names and
 * initialisation are transformers'.
 *
 * In float16 its activations overflow, so it computes in float32 then; weights may be held in float16.
 */
import { showShape } from "../base/show.js";
import { Embedding, Linear, Module, normal, RMSNorm, type Weights } from "../nn/index.js";
import { gelu, relu, scaledDotProductAttention, tensor, tidy, type Tensor } from "../torch/index.js";
import type { ForwardOptions } from "./clip-text.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";
import { parseT5Config, type T5Config } from "./t5-config.js";

class T5Attention extends Module {
  readonly #q: Linear;
  readonly #k: Linear;
  readonly #v: Linear;
  readonly #o: Linear;
  readonly #heads: number;

  constructor(
    weights: Weights,
    { d_model: size, d_kv: width, num_heads: heads, initializer_factor: factor }: T5Config,
  ) {
    super(weights);
    const inner = heads * width;
    const project = (name: string, std: number) =>
      new Linear(weights.at(name), size, inner, { bias: false, init: normal(factor * std) });
    this.#heads = heads;
    this.#q = project("q", (size * width) ** -0.5);
    this.#k = project("k", size ** -0.5);
    this.#v = project("v", size ** -0.5);
    this.#o = new Linear(weights.at("o"), inner, size, { bias: false, init: normal(factor * inner ** -0.5) });
  }

  /** x [B, N, d_model], bias [1, heads, N, N] -> [B, N, d_model] */
  forward(x: Tensor, bias: Tensor): Tensor {
    const [batch, length] = x.shape as [number, number];
    const split = (layer: Linear) => layer.forward(x).view([batch, length, this.#heads, -1]).transpose(1, 2);
    const attended = scaledDotProductAttention(split(this.#q), split(this.#k), split(this.#v), {
      mask: bias,
      scale: 1,
    });
    return this.#o.forward(attended.transpose(1, 2).flatten(2));
  }
}

/** Two linear layers with ReLU between them; or three, where GELU of one gates the other. */
class T5FeedForward extends Module {
  readonly #wi: Linear;
  readonly #wi1: Linear | undefined;
  readonly #wo: Linear;

  constructor(weights: Weights, { d_model: size, d_ff: inner, initializer_factor: factor, ...config }: T5Config) {
    super(weights);
    const layer = (name: string, from: number, to: number) =>
      new Linear(weights.at(name), from, to, { bias: false, init: normal(factor * from ** -0.5) });
    const gated = config.feed_forward_proj === "gated-gelu";
    this.#wi = layer(gated ? "wi_0" : "wi", size, inner);
    this.#wi1 = gated ? layer("wi_1", size, inner) : undefined;
    this.#wo = layer("wo", inner, size);
  }

  /** [B, N, d_model] -> the same */
  forward(x: Tensor): Tensor {
    const hidden = this.#wi.forward(x);
    if (this.#wi1 === undefined) return this.#wo.forward(relu(hidden));
    return this.#wo.forward(gelu(hidden, { approximate: "tanh" }).mul(this.#wi1.forward(x)));
  }
}

class T5Block extends Module {
  readonly #attention: T5Attention;
  readonly #attentionNorm: RMSNorm;
  readonly #feedForward: T5FeedForward;
  readonly #feedForwardNorm: RMSNorm;

  constructor(weights: Weights, config: T5Config) {
    super(weights);
    const norm = (at: Weights) => new RMSNorm(at.at("layer_norm"), config.d_model, config.layer_norm_epsilon);
    this.#attention = new T5Attention(weights.at("layer.0.SelfAttention"), config);
    this.#attentionNorm = norm(weights.at("layer.0"));
    this.#feedForward = new T5FeedForward(weights.at("layer.1.DenseReluDense"), config);
    this.#feedForwardNorm = norm(weights.at("layer.1"));
  }

  /** x [B, N, d_model], bias [1, heads, N, N] -> [B, N, d_model] */
  forward(x: Tensor, bias: Tensor): Tensor {
    return tidy(() => {
      const attended = this.#attention.forward(this.#attentionNorm.forward(x), bias).add_(x);
      return this.#feedForward.forward(this.#feedForwardNorm.forward(attended)).add_(attended);
    });
  }
}

export class T5EncoderModel extends PretrainedModel<T5Config> {
  static readonly layout: ModelLayout<T5Config> = {
    className: "T5EncoderModel",
    stem: "model",
    parseConfig: parseT5Config,
    // The embeddings' other name, and the other half of a whole T5.
    ignore: [/^(shared|encoder\.embed_tokens)\.weight$/, /^decoder\./, /^lm_head\./],
  };

  readonly #shared: Embedding;
  readonly #positions: Embedding;
  readonly #blocks: readonly T5Block[];
  readonly #finalNorm: RMSNorm;

  constructor(config: T5Config, weights: Weights) {
    super(config, weights);
    const { d_model: size, initializer_factor: factor, relative_attention_num_buckets: buckets } = config;
    // The embeddings have two names, and some files have the other one only.
    const shared = weights.has("shared.weight") ? "shared" : "encoder.embed_tokens";
    this.#shared = new Embedding(weights.at(shared), config.vocab_size, size, { init: normal(factor) });
    const encoder = weights.at("encoder");
    const first = encoder.at("block.0.layer.0.SelfAttention.relative_attention_bias");
    this.#positions = new Embedding(first, buckets, config.num_heads, { init: normal(factor * size ** -0.5) });
    this.#blocks = Array.from({ length: config.num_layers }, (_, i) => new T5Block(encoder.at(`block.${i}`), config));
    this.#finalNorm = new RMSNorm(encoder.at("final_layer_norm"), size, config.layer_norm_epsilon);
  }

  /**
   * @param inputIds int64 [B, N]; padding is read like any token, as Stable Diffusion 3 does
   * @param options.dtype to compute in; default: that of the weights. float16 becomes float32
   * @returns the last hidden state, [B, N, d_model], in the dtype that it was computed in
   */
  forward(inputIds: Tensor, { dtype = this.#shared.weight.dtype }: ForwardOptions = {}): Tensor {
    if (inputIds.ndim !== 2) {
      throw new RangeError(`Expected [B, N] for input ids but received ${showShape(inputIds.shape)}`);
    }
    const computed = dtype === "float16" ? "float32" : dtype;
    return tidy(() => {
      const bias = this.#bias(inputIds.size(1)).to({ dtype: computed });
      let x = this.#shared.forward(inputIds).to({ dtype: computed });
      for (const block of this.#blocks) {
        const next = block.forward(x, bias);
        x.dispose();
        x = next;
      }
      return this.#finalNorm.forward(x);
    });
  }

  /** What every layer adds to its scores: [1, heads, N, N] */
  #bias(length: number): Tensor {
    const { device } = this.#positions.weight;
    const ids = Array.from({ length: length ** 2 }, (_, i) =>
      bucketOf((i % length) - Math.floor(i / length), this.config),
    );
    const rows = tensor(BigInt64Array.from(ids.map(BigInt)), { shape: [length, length], dtype: "int64" });
    return this.#positions.forward(rows.to({ device })).permute([2, 0, 1]).unsqueeze(0).contiguous();
  }
}

/**
 * The bucket of a key's distance from its query: half of the buckets for keys behind it, and of each half, half for single
 * distances and half for ranges that grow with the logarithm, up to the farthest.
 */
export function bucketOf(
  distance: number,
  {
    relative_attention_num_buckets: buckets,
    relative_attention_max_distance: farthest,
  }: Pick<T5Config, "relative_attention_num_buckets" | "relative_attention_max_distance">,
): number {
  const half = buckets / 2;
  const exact = half / 2;
  const [side, far] = [distance > 0 ? half : 0, Math.abs(distance)];
  if (far < exact) return side + far;
  // In float32, as in PyTorch: a distance on the edge of two ranges falls on the same side.
  const { fround, log } = Math;
  const share = fround(fround(log(fround(far / exact))) / fround(log(farthest / exact)));
  return side + Math.min(half - 1, exact + Math.trunc(fround(share * (half - exact))));
}
