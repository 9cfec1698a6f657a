/**
 * DeBERTa's encoder, version 1 (He et al. 2021, arXiv 2006.03654), transformers' DebertaModel: BERT with disentangled
 * attention. Besides content to content, a score has content to position and position to content, for which relative
 * positions have embeddings of their own:
 *
 *     A_ij = q_i . k_j + q_i . kr_(i-j) + k_j . qr_(i-j)
 *
 * divided by the root of the head's width times the number of terms (the paper's equation 4, with the signs of
 * Microsoft's and transformers' code).
 */
import { Embedding, Module, normal, zerosInit, type Linear, type Weights } from "../nn/index.js";
import { arange, softmax, tidy, where, type Tensor } from "../torch/index.js";
import { parseDebertaConfig, type DebertaConfig } from "./bert-config.js";
import {
  BertEmbeddings,
  BertEncoder,
  bertLinear,
  checkTextInput,
  ENCODER_IGNORES,
  encoderScope,
  type TextEncoderOptions,
} from "./bert-encoder.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";

/** What all layers need to know of a batch. */
interface Surroundings {
  /** bool [B, 1, 1, N]; undefined where nothing is padded. */
  readonly mask: Tensor | undefined;
  /** The embeddings of the relative positions that occur, [P, hidden]. */
  readonly relative: Tensor;
  /** int64 [N, N]: the row of `relative` for query i and key j. */
  readonly distance: Tensor;
}

class DisentangledSelfAttention extends Module {
  readonly #inProj: Linear;
  readonly #qBias: Tensor;
  readonly #vBias: Tensor;
  readonly #posProj: Linear | undefined;
  readonly #posQProj: Linear | undefined;
  readonly #heads: number;
  readonly #scale: number;

  constructor(weights: Weights, config: DebertaConfig) {
    super(weights);
    const { hidden_size: size, num_attention_heads: heads, pos_att_type: terms } = config;
    const project = (name: string, to: number, bias: boolean) =>
      bertLinear(weights.at(name), [size, to], config, { bias });
    this.#inProj = project("in_proj", 3 * size, false);
    this.#qBias = weights.parameter("q_bias", [size], zerosInit);
    this.#vBias = weights.parameter("v_bias", [size], zerosInit);
    this.#posProj = terms.includes("c2p") ? project("pos_proj", size, false) : undefined;
    this.#posQProj = terms.includes("p2c") ? project("pos_q_proj", size, true) : undefined;
    this.#heads = heads;
    this.#scale = ((size / heads) * (1 + terms.length)) ** -0.5;
  }

  /** [B, N, hidden] -> the same */
  forward(x: Tensor, { mask, relative, distance }: Surroundings): Tensor {
    const { dtype } = x;
    // Each head's rows of the matrix are its query's, its key's and its value's: [B, heads, N, hidden / heads] each.
    const [query, key, value] = this.#split(this.#inProj.forward(x)).chunk(3, -1) as [Tensor, Tensor, Tensor];
    const bias = (all: Tensor) => this.#split(all.to({ dtype }).unsqueeze(0).unsqueeze(0));
    const q = query.add(bias(this.#qBias)).mul(this.#scale);
    const index = distance.expand([...q.shape.slice(0, 3), distance.size(1)]); // [B, heads, N, N]

    let scores = q.matmul(key.transpose(-2, -1)); // [B, heads, N, N]
    if (this.#posProj !== undefined) {
      const keys = this.#split(this.#posProj.forward(relative).unsqueeze(0)); // [1, heads, P, hidden / heads]
      scores = scores.add(q.matmul(keys.transpose(-2, -1)).gather(-1, index));
    }
    if (this.#posQProj !== undefined) {
      const queries = this.#split(this.#posQProj.forward(relative).unsqueeze(0)).mul(this.#scale);
      const byKey = key.matmul(queries.transpose(-2, -1)).gather(-1, index.transpose(-2, -1)); // [B, heads, key, query]
      scores = scores.add(byKey.transpose(-2, -1));
    }
    if (mask !== undefined) scores = where(mask, scores, -Infinity);
    return softmax(scores, -1)
      .matmul(value.add(bias(this.#vBias)))
      .transpose(1, 2)
      .flatten(2);
  }

  /** [B, N, heads * width] -> [B, heads, N, width], a view */
  #split(x: Tensor): Tensor {
    return x.view([x.size(0), x.size(1), this.#heads, -1]).transpose(1, 2);
  }
}

export class DebertaModel extends PretrainedModel<DebertaConfig> {
  static readonly layout: ModelLayout<DebertaConfig> = {
    className: "DebertaModel",
    stem: "model",
    parseConfig: parseDebertaConfig,
    ignore: ENCODER_IGNORES,
  };

  readonly #embeddings: BertEmbeddings;
  readonly #encoder: BertEncoder<Surroundings>;
  /** Of the relative positions -farthest to farthest - 1. */
  readonly #relEmbeddings: Embedding;
  readonly #farthest: number;

  constructor(config: DebertaConfig, weights: Weights) {
    super(config, weights);
    const { max_relative_positions: farthest, max_position_embeddings: positions, hidden_size: size } = config;
    const scope = encoderScope(weights, "deberta");
    this.#farthest = farthest < 1 ? positions : farthest;
    this.#embeddings = new BertEmbeddings(scope.at("embeddings"), config, { positions: config.position_biased_input });
    this.#relEmbeddings = new Embedding(scope.at("encoder.rel_embeddings"), 2 * this.#farthest, size, {
      init: normal(config.initializer_range),
    });
    this.#encoder = new BertEncoder(scope.at("encoder"), config, (self) => new DisentangledSelfAttention(self, config));
  }

  /** The number of tokens, special ones included, that a text can have. */
  get maxLength(): number {
    return this.config.max_position_embeddings;
  }

  /**
   * Padding, if there is any, follows the text.
   *
   * @param inputIds int64 [B, N]
   * @returns the embeddings and the output of each layer, [B, N, hidden] each; the caller owns them
   */
  forward(inputIds: Tensor, options: TextEncoderOptions = {}): Tensor[] {
    const { mask, layers = this.config.num_hidden_layers, dtype = this.#embeddings.dtype } = options;
    checkTextInput(inputIds, this.maxLength, layers, this.config);
    return tidy(() => {
      const length = inputIds.size(1);
      const positions = arange(0, length, 1, { dtype: "int64", device: inputIds.device });
      const embeddings = this.#embeddings.forward(inputIds, positions, dtype);
      const span = Math.min(length, this.#farthest);
      const surroundings = {
        mask: mask?.unsqueeze(1).unsqueeze(1),
        relative: this.#relEmbeddings.weight.narrow(0, this.#farthest - span, 2 * span).to({ dtype }),
        distance: positions
          .unsqueeze(1)
          .sub(positions)
          .add(span)
          .clamp({ min: 0, max: 2 * span - 1 }),
      };
      return this.#encoder.forward(embeddings, surroundings, layers);
    });
  }
}
