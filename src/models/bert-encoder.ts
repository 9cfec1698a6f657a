/**
 * What RoBERTa and DeBERTa have in common, which is BERT (Devlin et al. 2019, arXiv 1810.04805): embeddings of tokens, and
 * layers of attention and a two-layer perceptron with a norm after each sum. They differ in how attention knows of
 * positions. Names are transformers'.
 */
import { showShape } from "../base/show.js";
import { Embedding, LayerNorm, Linear, Module, normal, zerosInit, type Weights } from "../nn/index.js";
import { gelu, tidy, type DType, type Tensor } from "../torch/index.js";
import type { BertConfig } from "./bert-config.js";

/** Options of a text encoder's forward pass. */
export interface TextEncoderOptions {
  /** bool [B, N], true for tokens that are not padding. Default: there is no padding. */
  readonly mask?: Tensor | undefined;
  /** How many layers to compute. Default: all. */
  readonly layers?: number | undefined;
  /** To compute in. Default: that of the weights. */
  readonly dtype?: DType | undefined;
}

/** @throws RangeError for ids that are not [B, at most `longest`], or layers that the encoder does not have */
export function checkTextInput(inputIds: Tensor, longest: number, layers: number, config: BertConfig): void {
  if (inputIds.ndim !== 2 || inputIds.size(1) > longest) {
    throw new RangeError(`Expected [B, at most ${longest}] for input ids but received ${showShape(inputIds.shape)}`);
  }
  const { num_hidden_layers: depth } = config;
  if (!Number.isInteger(layers) || layers < 0 || layers > depth) {
    throw new RangeError(`Expected a whole number from 0 to ${depth} for layers but received ${layers}`);
  }
}

/** Buffers that older versions of transformers saved, and heads, which the encoders here do not have. */
export const ENCODER_IGNORES: readonly RegExp[] = [
  /(^|\.)embeddings\.(position_ids|token_type_ids)$/,
  /(^|\.)pooler\./,
  /^(classifier|cls|lm_head|lm_predictions|qa_outputs)\./,
];

/** The encoder's scope: `name`, which transformers omits for an encoder without a head. */
export function encoderScope(weights: Weights, name: string): Weights {
  return weights.has(`${name}.embeddings.word_embeddings.weight`) ? weights.at(name) : weights;
}

/** Embeddings of tokens; of positions and of the first type of text, where the encoder has them; and a norm. */
export class BertEmbeddings extends Module {
  readonly #words: Embedding;
  readonly #positions: Embedding | undefined;
  readonly #types: Embedding | undefined;
  readonly #norm: LayerNorm;

  constructor(weights: Weights, config: BertConfig, { positions }: { readonly positions: boolean }) {
    super(weights);
    const { hidden_size: size, max_position_embeddings: places, type_vocab_size: types } = config;
    const table = (name: string, count: number) =>
      new Embedding(weights.at(name), count, size, { init: normal(config.initializer_range) });
    this.#words = table("word_embeddings", config.vocab_size);
    this.#positions = positions ? table("position_embeddings", places) : undefined;
    this.#types = types > 0 ? table("token_type_embeddings", types) : undefined;
    this.#norm = new LayerNorm(weights.at("LayerNorm"), size, config.layer_norm_eps);
  }

  get dtype(): DType {
    return this.#words.weight.dtype;
  }

  /**
   * int64 [B, N] -> [B, N, hidden]
   *
   * @param positionIds int64, broadcast to [B, N]; needed where there are positions
   */
  forward(inputIds: Tensor, positionIds: Tensor | undefined, dtype: DType): Tensor {
    let sum = this.#words.forward(inputIds).to({ dtype });
    if (this.#types !== undefined) sum = sum.add(this.#types.weight.narrow(0, 0, 1).to({ dtype }));
    if (this.#positions !== undefined) sum = sum.add(this.#positions.forward(positionIds!).to({ dtype }));
    return this.#norm.forward(sum);
  }
}

/** Attention of an encoder; `Context` is what it needs to know of the batch. */
export interface SelfAttention<Context> {
  /** [B, N, hidden] -> the same */
  forward(x: Tensor, context: Context): Tensor;
}

/** A linear layer of BERT's initialisation. */
export function bertLinear(
  weights: Weights,
  [from, to]: readonly [from: number, to: number],
  { initializer_range: std }: BertConfig,
  { bias = true }: { readonly bias?: boolean } = {},
): Linear {
  return new Linear(weights, from, to, { bias, init: normal(std), biasInit: zerosInit });
}

/** A linear layer whose output is added to what went into its branch, and normalised. */
class BertOutput extends Module {
  readonly #dense: Linear;
  readonly #norm: LayerNorm;

  constructor(weights: Weights, from: number, config: BertConfig) {
    super(weights);
    const { hidden_size: size, layer_norm_eps: eps } = config;
    this.#dense = bertLinear(weights.at("dense"), [from, size], config);
    this.#norm = new LayerNorm(weights.at("LayerNorm"), size, eps);
  }

  /** branch [B, N, from], input [B, N, hidden] -> [B, N, hidden] */
  forward(branch: Tensor, input: Tensor): Tensor {
    // The output of a linear layer is new and needed by no gradient, so the sum is made in place.
    return this.#norm.forward(this.#dense.forward(branch).add_(input));
  }
}

class BertLayer<Context> extends Module {
  readonly #attention: SelfAttention<Context>;
  readonly #attentionOutput: BertOutput;
  readonly #intermediate: Linear;
  readonly #output: BertOutput;
  readonly #approximate: "none" | "tanh";

  constructor(weights: Weights, config: BertConfig, attention: (weights: Weights) => SelfAttention<Context>) {
    super(weights);
    const { hidden_size: size, intermediate_size: inner } = config;
    this.#attention = attention(weights.at("attention.self"));
    this.#attentionOutput = new BertOutput(weights.at("attention.output"), size, config);
    this.#intermediate = bertLinear(weights.at("intermediate.dense"), [size, inner], config);
    this.#output = new BertOutput(weights.at("output"), inner, config);
    this.#approximate = config.hidden_act === "gelu" ? "none" : "tanh";
  }

  /** [B, N, hidden] -> the same */
  forward(x: Tensor, context: Context): Tensor {
    return tidy(() => {
      const attended = this.#attentionOutput.forward(this.#attention.forward(x, context), x);
      const inner = gelu(this.#intermediate.forward(attended), { approximate: this.#approximate });
      return this.#output.forward(inner, attended);
    });
  }
}

/** The layers. */
export class BertEncoder<Context> extends Module {
  readonly #layers: readonly BertLayer<Context>[];

  /** @param attention makes the attention of a layer from its scope */
  constructor(weights: Weights, config: BertConfig, attention: (weights: Weights) => SelfAttention<Context>) {
    super(weights);
    this.#layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new BertLayer(weights.at(`layer.${i}`), config, attention),
    );
  }

  /** [B, N, hidden] -> the embeddings and the output of each of the first `layers` layers, [B, N, hidden] each */
  forward(embeddings: Tensor, context: Context, layers: number): Tensor[] {
    const states = [embeddings];
    for (const layer of this.#layers.slice(0, layers)) states.push(layer.forward(states.at(-1)!, context));
    return states;
  }
}
