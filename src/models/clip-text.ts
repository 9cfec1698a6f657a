/**
 * CLIP's text tower: CLIPTextModel, and CLIPTextModelWithProjection, which is SDXL's second text encoder.
 */
import { showShape } from "../base/show.js";
import { Embedding, LayerNorm, Linear, Module, normal, type Weights } from "../nn/index.js";
import { arange, tidy, type DType, type Tensor } from "../torch/index.js";
import { parseTextConfig, type CLIPTextConfig } from "./clip-config.js";
import { CLIPEncoder } from "./clip-encoder.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";

export interface CLIPTextOutput {
  /** The last layer's output after the final norm, [B, N, hidden] */
  readonly lastHiddenState: Tensor;
  /** The second-to-last layer's output without norm, [B, N, hidden] */
  readonly penultimateHiddenState: Tensor;
  /** The last hidden state at the end-of-text token, [B, hidden] */
  readonly poolerOutput: Tensor;
}

export interface ForwardOptions {
  readonly dtype?: DType;
}

/** The id that published configs contain by mistake; see `CLIPTextConfig.eos_token_id`. */
const LEGACY_EOS = 2;

/** A buffer that older versions of transformers saved. */
export const POSITION_IDS = /(^|\.)embeddings\.position_ids$/;

/** The tower itself, in any scope of a checkpoint. */
export class CLIPTextTransformer extends Module {
  readonly #config: CLIPTextConfig;
  readonly #tokenEmbedding: Embedding;
  readonly #positionEmbedding: Embedding;
  readonly #encoder: CLIPEncoder;
  readonly #finalLayerNorm: LayerNorm;

  constructor(weights: Weights, config: CLIPTextConfig) {
    super(weights);
    this.#config = config;
    const { hidden_size: size, vocab_size: vocabulary, max_position_embeddings: length } = config;
    const init = normal(0.02 * config.initializer_factor);
    this.#tokenEmbedding = new Embedding(weights.at("embeddings.token_embedding"), vocabulary, size, { init });
    this.#positionEmbedding = new Embedding(weights.at("embeddings.position_embedding"), length, size, { init });
    this.#encoder = new CLIPEncoder(weights.at("encoder"), config, { causal: true });
    this.#finalLayerNorm = new LayerNorm(weights.at("final_layer_norm"), size, config.layer_norm_eps);
  }

  /**
   * @param inputIds int64 [B, N]
   * @param options.dtype to compute in; default: that of the weights
   */
  forward(inputIds: Tensor, { dtype = this.#positionEmbedding.weight.dtype }: ForwardOptions = {}): CLIPTextOutput {
    const longest = this.#config.max_position_embeddings;
    if (inputIds.ndim !== 2 || inputIds.size(1) > longest) {
      throw new RangeError(`Expected [B, at most ${longest}] for input ids but received ${showShape(inputIds.shape)}`);
    }
    return tidy(() => {
      const positions = this.#positionEmbedding.weight.narrow(0, 0, inputIds.size(1));
      const tokens = this.#tokenEmbedding.forward(inputIds).to({ dtype });
      const { last, penultimate } = this.#encoder.forward(tokens.add(positions.to({ dtype })));
      const lastHiddenState = this.#finalLayerNorm.forward(last);
      return {
        lastHiddenState,
        penultimateHiddenState: penultimate,
        poolerOutput: this.#pool(lastHiddenState, inputIds),
      };
    });
  }

  /** The row of each text's first end-of-text token. */
  #pool(hidden: Tensor, inputIds: Tensor): Tensor {
    const eos = this.#config.eos_token_id;
    const isEnd = inputIds.eq(eos === LEGACY_EOS ? inputIds.amax({ dim: 1, keepdim: true }) : eos);
    // Padding is often the same token. A falling weight makes the first one the unique maximum.
    const length = inputIds.size(1);
    const countdown = arange(length, 0, -1).to({ dtype: "float32", device: inputIds.device });
    const at = isEnd.to({ dtype: "float32" }).mul(countdown).argmax({ dim: 1 }); // [B]
    const index = at
      .unsqueeze(-1)
      .unsqueeze(-1)
      .expand([-1, 1, hidden.size(-1)]);
    return hidden.gather(1, index).squeeze(1);
  }
}

/** The tower's scope: `text_model`, which transformers from 5.0 omits for a bare CLIPTextModel. */
function towerScope(weights: Weights): Weights {
  return weights.has("text_model.final_layer_norm.weight") ? weights.at("text_model") : weights;
}

export class CLIPTextModel extends PretrainedModel<CLIPTextConfig> {
  static readonly layout: ModelLayout<CLIPTextConfig> = {
    className: "CLIPTextModel",
    stem: "model",
    parseConfig: parseTextConfig,
    // Some folders contain the projection, which this class does not use.
    ignore: [POSITION_IDS, /^text_projection\.weight$/],
  };

  readonly #textModel: CLIPTextTransformer;

  constructor(config: CLIPTextConfig, weights: Weights) {
    super(config, weights);
    this.#textModel = new CLIPTextTransformer(towerScope(weights), config);
  }

  /** @param inputIds int64 [B, N] */
  forward(inputIds: Tensor, options?: ForwardOptions): CLIPTextOutput {
    return this.#textModel.forward(inputIds, options);
  }
}

export class CLIPTextModelWithProjection extends PretrainedModel<CLIPTextConfig> {
  static readonly layout: ModelLayout<CLIPTextConfig> = {
    className: "CLIPTextModelWithProjection",
    stem: "model",
    parseConfig: parseTextConfig,
    ignore: [POSITION_IDS],
  };

  readonly #textModel: CLIPTextTransformer;
  readonly #textProjection: Linear;

  constructor(config: CLIPTextConfig, weights: Weights) {
    super(config, weights);
    const { hidden_size: size, projection_dim: features, initializer_factor: factor } = config;
    this.#textModel = new CLIPTextTransformer(towerScope(weights), config);
    const init = normal(size ** -0.5 * factor);
    this.#textProjection = new Linear(weights.at("text_projection"), size, features, { bias: false, init });
  }

  /**
   * @param inputIds int64 [B, N]
   * @returns with the pooled output projected as `textEmbeds`, [B, projection_dim]
   */
  forward(inputIds: Tensor, options?: ForwardOptions): CLIPTextOutput & { readonly textEmbeds: Tensor } {
    return tidy(() => {
      const output = this.#textModel.forward(inputIds, options);
      return { ...output, textEmbeds: this.#textProjection.forward(output.poolerOutput) };
    });
  }
}
