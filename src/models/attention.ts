/**
 * Multi-head attention and the transformer block of the UNet, under diffusers' names.
 *
 * Tokens are rows of a matrix, [B * N, C]: a view of channels-last images. Every linear layer is one matrix product,
 * and sums are added to its output in place (a linear layer's gradient does not need its output).
 *
 * Departure from diffusers: keys and values of the text are an argument of the block. They depend only on the prompt,
 * so a sampler computes them once for all its steps (UNet2DConditionModel.encodeText).
 */
import { LayerNorm, Linear, Module, type Weights } from "../nn/index.js";
import { scaledDotProductAttention, tidy, type Tensor } from "../torch/index.js";
import { gated } from "./activations.js";

export interface AttentionOptions {
  readonly queryDim: number;
  /** Width of the context. Default: that of the queries, for self-attention. */
  readonly crossAttentionDim?: number | undefined;
  readonly heads: number;
  /** Compute scores and softmax in float32 if the model is in half precision. */
  readonly upcastAttention?: boolean;
}

/** Keys and values of one attention layer, [B, heads, M, headDim]. */
export interface KeyValue {
  readonly key: Tensor;
  readonly value: Tensor;
}

export class Attention extends Module {
  readonly heads: number;
  readonly headDim: number;
  readonly #toQ: Linear;
  readonly #toK: Linear;
  readonly #toV: Linear;
  readonly #toOut: Linear;
  readonly #upcast: boolean;

  constructor(weights: Weights, options: AttentionOptions) {
    super(weights);
    const { queryDim, crossAttentionDim = queryDim, heads, upcastAttention = false } = options;
    if (queryDim % heads !== 0) {
      throw new Error(`Expected a multiple of ${heads} heads for channels of ${weights.path} but received ${queryDim}`);
    }
    this.heads = heads;
    this.headDim = queryDim / heads;
    this.#upcast = upcastAttention;
    this.#toQ = new Linear(weights.at("to_q"), queryDim, queryDim, { bias: false });
    this.#toK = new Linear(weights.at("to_k"), crossAttentionDim, queryDim, { bias: false });
    this.#toV = new Linear(weights.at("to_v"), crossAttentionDim, queryDim, { bias: false });
    this.#toOut = new Linear(weights.at("to_out.0"), queryDim, queryDim);
  }

  /** Keys and values of a context, [B * M, crossAttentionDim]. */
  keyValue(context: Tensor, batch: number): KeyValue {
    return {
      key: this.#heads(this.#toK.forward(context), batch),
      value: this.#heads(this.#toV.forward(context), batch),
    };
  }

  /**
   * [B * N, queryDim] -> the same
   *
   * @param keyValue of the context; default: of x itself
   */
  forward(x: Tensor, batch: number, keyValue: KeyValue = this.keyValue(x, batch)): Tensor {
    const query = this.#heads(this.#toQ.forward(x), batch);
    const attended = this.#attend(query, keyValue); // [B, heads, N, headDim]
    return this.#toOut.forward(attended.transpose(1, 2).reshape(x.shape));
  }

  #attend(query: Tensor, { key, value }: KeyValue): Tensor {
    if (!this.#upcast || query.dtype === "float32") return scaledDotProductAttention(query, key, value);
    const float = { dtype: "float32" } as const;
    return scaledDotProductAttention(query.to(float), key.to(float), value.to(float)).to({ dtype: query.dtype });
  }

  /** [B * N, heads * headDim] -> [B, heads, N, headDim], a view */
  #heads(x: Tensor, batch: number): Tensor {
    return x.view([batch, -1, this.heads, this.headDim]).transpose(1, 2);
  }
}

/** GEGLU: linear to twice the inner width, one half gating the other by GELU, then linear back. */
export class FeedForward extends Module {
  readonly #proj: Linear;
  readonly #out: Linear;

  constructor(weights: Weights, dim: number, multiple = 4) {
    super(weights);
    this.#proj = new Linear(weights.at("net.0.proj"), dim, dim * multiple * 2);
    this.#out = new Linear(weights.at("net.2"), dim * multiple, dim);
  }

  /** [B * N, dim] -> the same */
  forward(x: Tensor): Tensor {
    const [hidden, gate] = this.#proj.forward(x).chunk(2, -1) as [Tensor, Tensor];
    return this.#out.forward(gated(hidden, gate));
  }
}

export interface TransformerBlockOptions {
  readonly dim: number;
  readonly heads: number;
  readonly crossAttentionDim: number;
  readonly upcastAttention: boolean;
}

/**
 * Self-attention, cross-attention to the text and feed-forward, each after a LayerNorm and with a residual connection.
 */
export class BasicTransformerBlock extends Module {
  readonly #norm1: LayerNorm;
  readonly #attn1: Attention;
  readonly #norm2: LayerNorm;
  readonly attn2: Attention;
  readonly #norm3: LayerNorm;
  readonly #ff: FeedForward;

  constructor(weights: Weights, { dim, heads, crossAttentionDim, upcastAttention }: TransformerBlockOptions) {
    super(weights);
    this.#norm1 = new LayerNorm(weights.at("norm1"), dim);
    this.#attn1 = new Attention(weights.at("attn1"), { queryDim: dim, heads, upcastAttention });
    this.#norm2 = new LayerNorm(weights.at("norm2"), dim);
    this.attn2 = new Attention(weights.at("attn2"), { queryDim: dim, crossAttentionDim, heads, upcastAttention });
    this.#norm3 = new LayerNorm(weights.at("norm3"), dim);
    this.#ff = new FeedForward(weights.at("ff"), dim);
  }

  /**
   * [B * N, dim] -> the same
   *
   * @param text keys and values of the text for `attn2`
   */
  forward(x: Tensor, batch: number, text: KeyValue): Tensor {
    const a = tidy(() => this.#attn1.forward(this.#norm1.forward(x), batch).add_(x));
    const b = tidy(() => this.attn2.forward(this.#norm2.forward(a), batch, text).add_(a));
    a.dispose();
    const c = tidy(() => this.#ff.forward(this.#norm3.forward(b)).add_(b));
    b.dispose();
    return c;
  }
}
