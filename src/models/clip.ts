/**
 * CLIPModel (Radford et al. 2021): a text and an image tower, projected into one space where the cosine measures how
 * well text and image match.
 */
import { constant, Linear, normal, type Weights } from "../nn/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { parseClipConfig, type CLIPConfig } from "./clip-config.js";
import { CLIPTextTransformer, POSITION_IDS } from "./clip-text.js";
import { CLIPVisionTransformer } from "./clip-vision.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";

export class CLIPModel extends PretrainedModel<CLIPConfig> {
  static readonly layout: ModelLayout<CLIPConfig> = {
    className: "CLIPModel",
    stem: "model",
    parseConfig: parseClipConfig,
    ignore: [POSITION_IDS],
  };

  /** log of the inverse temperature: logits are exp(logitScale) times cosines; a scalar */
  readonly logitScale: Tensor;
  readonly #textModel: CLIPTextTransformer;
  readonly #visionModel: CLIPVisionTransformer;
  readonly #textProjection: Linear;
  readonly #visualProjection: Linear;

  constructor(config: CLIPConfig, weights: Weights) {
    super(config, weights);
    const { text_config: text, vision_config: vision, projection_dim: features } = config;
    this.#textModel = new CLIPTextTransformer(weights.at("text_model"), text);
    this.#visionModel = new CLIPVisionTransformer(weights.at("vision_model"), vision);
    const project = (name: string, size: number) =>
      new Linear(weights.at(name), size, features, {
        bias: false,
        init: normal(size ** -0.5 * config.initializer_factor),
      });
    this.#textProjection = project("text_projection", text.hidden_size);
    this.#visualProjection = project("visual_projection", vision.hidden_size);
    this.logitScale = weights.parameter("logit_scale", [], constant(config.logit_scale_init_value));
  }

  /** int64 [B, N] -> [B, projection_dim], of any length */
  getTextFeatures(inputIds: Tensor): Tensor {
    return tidy(() => this.#textProjection.forward(this.#textModel.forward(inputIds).poolerOutput));
  }

  /** Preprocessed images [B, 3, side, side] -> [B, projection_dim], of any length */
  getImageFeatures(pixelValues: Tensor): Tensor {
    return tidy(() => this.#visualProjection.forward(this.#visionModel.forward(pixelValues)));
  }
}
