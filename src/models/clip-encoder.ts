/**
 * The transformer of both of CLIP's towers: pre-norm layers of attention and a two-layer perceptron, with transformers'
 * names and initialisation.
 */
import { LayerNorm, Linear, Module, normal, zerosInit, type Weights } from "../nn/index.js";
import { gelu, scaledDotProductAttention, sigmoid, tidy, type Tensor } from "../torch/index.js";
import type { CLIPTowerConfig } from "./clip-config.js";

/** x * sigmoid(1.702 x), OpenAI's approximation of GELU. */
function quickGelu(x: Tensor): Tensor {
  return sigmoid(x.mul(1.702)).mul(x);
}

class CLIPAttention extends Module {
  readonly #qProj: Linear;
  readonly #kProj: Linear;
  readonly #vProj: Linear;
  readonly #outProj: Linear;
  readonly #heads: number;
  readonly #causal: boolean;

  constructor(weights: Weights, config: CLIPTowerConfig, causal: boolean) {
    super(weights);
    const { hidden_size: size, num_attention_heads: heads, num_hidden_layers: depth } = config;
    this.#heads = heads;
    this.#causal = causal;
    const outStd = size ** -0.5 * config.initializer_factor;
    const project = (name: string, std: number) =>
      new Linear(weights.at(name), size, size, { init: normal(std), biasInit: zerosInit });
    this.#qProj = project("q_proj", outStd * (2 * depth) ** -0.5);
    this.#kProj = project("k_proj", outStd * (2 * depth) ** -0.5);
    this.#vProj = project("v_proj", outStd * (2 * depth) ** -0.5);
    this.#outProj = project("out_proj", outStd);
  }

  /** [B, N, hidden] -> the same, a new tensor */
  forward(x: Tensor): Tensor {
    const [batch, length, size] = x.shape as [number, number, number];
    const split = (y: Tensor) => y.view([batch, length, this.#heads, size / this.#heads]).transpose(1, 2);
    const [q, k, v] = [this.#qProj, this.#kProj, this.#vProj].map((layer) => split(layer.forward(x))) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const attended = scaledDotProductAttention(q, k, v, { causal: this.#causal }); // [B, heads, N, hidden / heads]
    return this.#outProj.forward(attended.transpose(1, 2).flatten(2));
  }
}

class CLIPEncoderLayer extends Module {
  readonly #selfAttn: CLIPAttention;
  readonly #layerNorm1: LayerNorm;
  readonly #fc1: Linear;
  readonly #fc2: Linear;
  readonly #layerNorm2: LayerNorm;
  readonly #activation: (x: Tensor) => Tensor;

  constructor(weights: Weights, config: CLIPTowerConfig, causal: boolean) {
    super(weights);
    const { hidden_size: size, intermediate_size: inner, num_hidden_layers: depth, layer_norm_eps: eps } = config;
    const factor = config.initializer_factor;
    const std1 = (2 * size) ** -0.5 * factor;
    const std2 = size ** -0.5 * (2 * depth) ** -0.5 * factor;
    this.#selfAttn = new CLIPAttention(weights.at("self_attn"), config, causal);
    this.#layerNorm1 = new LayerNorm(weights.at("layer_norm1"), size, eps);
    this.#fc1 = new Linear(weights.at("mlp.fc1"), size, inner, { init: normal(std1), biasInit: zerosInit });
    this.#fc2 = new Linear(weights.at("mlp.fc2"), inner, size, { init: normal(std2), biasInit: zerosInit });
    this.#layerNorm2 = new LayerNorm(weights.at("layer_norm2"), size, eps);
    this.#activation = config.hidden_act === "gelu" ? gelu : quickGelu;
  }

  /** [B, N, hidden] -> the same */
  forward(x: Tensor): Tensor {
    // The outputs of linear layers are new and needed by no gradient, so sums are added to them in place.
    const h = tidy(() => this.#selfAttn.forward(this.#layerNorm1.forward(x)).add_(x));
    const y = tidy(() => this.#fc2.forward(this.#activation(this.#fc1.forward(this.#layerNorm2.forward(h)))).add_(h));
    h.dispose();
    return y;
  }
}

export class CLIPEncoder extends Module {
  readonly #layers: readonly CLIPEncoderLayer[];

  constructor(weights: Weights, config: CLIPTowerConfig, { causal }: { causal: boolean }) {
    super(weights);
    this.#layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new CLIPEncoderLayer(weights.at(`layers.${i}`), config, causal),
    );
  }

  /** [B, N, hidden] -> the last layer's output and its input, which is the penultimate layer's output */
  forward(embeddings: Tensor): { last: Tensor; penultimate: Tensor } {
    let [penultimate, last] = [embeddings, embeddings];
    for (const layer of this.#layers) {
      const next = layer.forward(last);
      if (penultimate !== embeddings && penultimate !== last) penultimate.dispose();
      [penultimate, last] = [last, next];
    }
    return { last, penultimate };
  }
}
