/**
 * RoBERTa's encoder (Liu et al. 2019, arXiv 1907.11692), transformers' RobertaModel without its pooler: BERT with learned
 * embeddings of absolute positions.
 */
import { Module, type Linear, type Weights } from "../nn/index.js";
import { scaledDotProductAttention, tidy, type Tensor } from "../torch/index.js";
import { parseRobertaConfig, type RobertaConfig } from "./bert-config.js";
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

/** The mask of a batch, bool [B, 1, 1, N]; undefined where nothing is padded. */
type KeyMask = Tensor | undefined;

class RobertaSelfAttention extends Module {
  readonly #query: Linear;
  readonly #key: Linear;
  readonly #value: Linear;
  readonly #heads: number;

  constructor(weights: Weights, config: RobertaConfig) {
    super(weights);
    const { hidden_size: size } = config;
    const project = (name: string) => bertLinear(weights.at(name), [size, size], config);
    this.#query = project("query");
    this.#key = project("key");
    this.#value = project("value");
    this.#heads = config.num_attention_heads;
  }

  /** [B, N, hidden] -> the same */
  forward(x: Tensor, mask: KeyMask): Tensor {
    const [batch, length] = x.shape as [number, number, number];
    const split = (layer: Linear) => layer.forward(x).view([batch, length, this.#heads, -1]).transpose(1, 2);
    const [q, k, v] = [split(this.#query), split(this.#key), split(this.#value)]; // [B, heads, N, hidden / heads]
    return scaledDotProductAttention(q, k, v, mask === undefined ? {} : { mask })
      .transpose(1, 2)
      .flatten(2);
  }
}

export class RobertaModel extends PretrainedModel<RobertaConfig> {
  static readonly layout: ModelLayout<RobertaConfig> = {
    className: "RobertaModel",
    stem: "model",
    parseConfig: parseRobertaConfig,
    ignore: ENCODER_IGNORES,
  };

  readonly #embeddings: BertEmbeddings;
  readonly #encoder: BertEncoder<KeyMask>;

  constructor(config: RobertaConfig, weights: Weights) {
    super(config, weights);
    const scope = encoderScope(weights, "roberta");
    this.#embeddings = new BertEmbeddings(scope.at("embeddings"), config, { positions: true });
    this.#encoder = new BertEncoder(scope.at("encoder"), config, (self) => new RobertaSelfAttention(self, config));
  }

  /** The number of tokens, special ones included, that a text can have. Positions begin behind the padding's id. */
  get maxLength(): number {
    return this.config.max_position_embeddings - this.config.pad_token_id - 1;
  }

  /**
   * @param inputIds int64 [B, N]
   * @returns the embeddings and the output of each layer, [B, N, hidden] each; the caller owns them
   */
  forward(inputIds: Tensor, options: TextEncoderOptions = {}): Tensor[] {
    const { mask, layers = this.config.num_hidden_layers, dtype = this.#embeddings.dtype } = options;
    const { pad_token_id: padding } = this.config;
    checkTextInput(inputIds, this.maxLength, layers, this.config);
    return tidy(() => {
      // Padding has the position of its id, and does not count for the tokens behind it.
      const counted = inputIds.ne(padding).to({ dtype: "int64" });
      const positions = counted.cumsum(1).mul(counted).add(padding);
      const embeddings = this.#embeddings.forward(inputIds, positions, dtype);
      return this.#encoder.forward(embeddings, mask?.unsqueeze(1).unsqueeze(1), layers);
    });
  }
}
