/** CLIP's image tower: a vision transformer whose first token, a learnt embedding, becomes the feature. */
import { showShape } from "../base/show.js";
import { Conv2d, Embedding, LayerNorm, Module, normal, type Weights } from "../nn/index.js";
import { cat, tidy, type Tensor } from "../torch/index.js";
import type { CLIPVisionConfig } from "./clip-config.js";
import { CLIPEncoder } from "./clip-encoder.js";

export class CLIPVisionTransformer extends Module {
  readonly #config: CLIPVisionConfig;
  readonly #classEmbedding: Tensor; // [hidden]
  readonly #patchEmbedding: Conv2d;
  readonly #positionEmbedding: Embedding;
  readonly #preLayerNorm: LayerNorm;
  readonly #encoder: CLIPEncoder;
  readonly #postLayerNorm: LayerNorm;

  constructor(weights: Weights, config: CLIPVisionConfig) {
    super(weights);
    this.#config = config;
    const { hidden_size: size, patch_size: patch, image_size: side, num_channels: channels } = config;
    const { layer_norm_eps: eps, initializer_factor: factor } = config;
    const embeddings = weights.at("embeddings");
    const init = normal(config.initializer_range * factor);
    const tokens = Math.floor(side / patch) ** 2 + 1;
    this.#classEmbedding = embeddings.parameter("class_embedding", [size], normal(size ** -0.5 * factor));
    this.#patchEmbedding = new Conv2d(embeddings.at("patch_embedding"), channels, size, {
      kernel: patch,
      stride: patch,
      padding: 0,
      bias: false,
      init,
    });
    this.#positionEmbedding = new Embedding(embeddings.at("position_embedding"), tokens, size, { init });
    // Checkpoints misspell this name.
    this.#preLayerNorm = new LayerNorm(weights.at("pre_layrnorm"), size, eps);
    this.#encoder = new CLIPEncoder(weights.at("encoder"), config, { causal: false });
    this.#postLayerNorm = new LayerNorm(weights.at("post_layernorm"), size, eps);
  }

  /** Preprocessed images [B, channels, side, side] -> [B, hidden], in their dtype */
  forward(pixelValues: Tensor): Tensor {
    const { num_channels: channels, image_size: side } = this.#config;
    const [batch = 0, ...rest] = pixelValues.shape;
    if (rest.join() !== [channels, side, side].join()) {
      const expected = showShape(["B", channels, side, side]);
      throw new RangeError(`Expected ${expected} for pixel values but received ${showShape(pixelValues.shape)}`);
    }
    return tidy(() => {
      const grid = this.#patchEmbedding.forward(pixelValues.contiguous({ memoryFormat: "channelsLast" }));
      const patches = grid.flatten(2).transpose(1, 2); // [B, patches, hidden]
      const { dtype } = patches;
      const first = this.#classEmbedding.to({ dtype }).expand([batch, 1, -1]);
      const tokens = cat([first, patches], 1).add(this.#positionEmbedding.weight.to({ dtype }));
      const { last } = this.#encoder.forward(this.#preLayerNorm.forward(tokens));
      return this.#postLayerNorm.forward(last.select(1, 0));
    });
  }
}
