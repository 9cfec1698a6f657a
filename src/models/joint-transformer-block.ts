/**
 * JointTransformerBlock: joint attention of image and text, then a perceptron for each. Shifts, scales and gates of every
 * part are linear in an embedding of timestep and text ("adaptive layer norm", arXiv 2212.09748). Names are diffusers'.
 */
import { Linear, Module, type Weights } from "../nn/index.js";
import { gelu, layerNorm, tidy, type Tensor } from "../torch/index.js";
import { JointAttention } from "./joint-attention.js";

/** Of all norms of the model; they have no weights. */
const EPS = 1e-6;

/** norm(x) (1 + scale) + shift, for x [B, N, dim] and a scale and a shift [B, 1, dim]. */
function modulated(x: Tensor, scale: Tensor, shift: Tensor): Tensor {
  return tidy(() => {
    const normed = layerNorm(x, [x.size(-1)], null, null, EPS);
    return normed.mul(scale.add(1)).add_(shift);
  });
}

/** x + gate y, for new y that no gradient needs. */
const gated = (x: Tensor, gate: Tensor, y: Tensor): Tensor => y.mul(gate).add_(x);

/** The linear layer of adaptive layer norms: `count` vectors from the embedding. */
class AdaptiveNorm extends Module {
  readonly #linear: Linear;
  readonly #count: number;

  constructor(weights: Weights, dim: number, count: number) {
    super(weights);
    this.#linear = new Linear(weights.at("linear"), dim, count * dim);
    this.#count = count;
  }

  /** SiLU of the embedding, [B, dim] -> `count` of [B, 1, dim] */
  vectors(activated: Tensor): Tensor[] {
    return this.#linear.forward(activated).unsqueeze(1).chunk(this.#count, -1);
  }
}

/** AdaLayerNormContinuous, which gives the scale first: the norm before a last layer, and of a text without output. */
export class AdaLayerNormContinuous extends AdaptiveNorm {
  constructor(weights: Weights, dim: number) {
    super(weights, dim, 2);
  }

  /** x [B, N, dim], SiLU of the embedding [B, dim] -> [B, N, dim] */
  forward(x: Tensor, activated: Tensor): Tensor {
    const [scale, shift] = this.vectors(activated) as [Tensor, Tensor];
    return modulated(x, scale, shift);
  }
}

/** Linear to four times the width, GELU by its tanh approximation, and back. */
class FeedForward extends Module {
  readonly #proj: Linear;
  readonly #out: Linear;

  constructor(weights: Weights, dim: number) {
    super(weights);
    this.#proj = new Linear(weights.at("net.0.proj"), dim, 4 * dim);
    this.#out = new Linear(weights.at("net.2"), 4 * dim, dim);
  }

  /** [B, N, dim] -> the same */
  forward(x: Tensor): Tensor {
    const inner = tidy(() => gelu(this.#proj.forward(x.flatten(0, 1)), { approximate: "tanh" }));
    return this.#out.forward(inner).view(x.shape);
  }
}

export interface JointTransformerBlockOptions {
  readonly dim: number;
  readonly heads: number;
  readonly qkNorm: boolean;
  /** Whether the image attends to itself alone as well. */
  readonly dual: boolean;
  /** The last block: the text has no output. */
  readonly contextPreOnly: boolean;
}

/** Tokens of image and text, [B, N, dim] and [B, M, dim]; no text behind the last block. */
export interface JointTokens {
  readonly image: Tensor;
  readonly text: Tensor | undefined;
}

export class JointTransformerBlock extends Module {
  readonly contextPreOnly: boolean;
  readonly #norm1: AdaptiveNorm;
  readonly #norm1Context: AdaptiveNorm | AdaLayerNormContinuous;
  readonly #attn: JointAttention;
  readonly #attn2: JointAttention | undefined;
  readonly #ff: FeedForward;
  readonly #ffContext: FeedForward | undefined;

  constructor(weights: Weights, { dim, heads, qkNorm, dual, contextPreOnly }: JointTransformerBlockOptions) {
    super(weights);
    this.contextPreOnly = contextPreOnly;
    const contextNorm = weights.at("norm1_context");
    this.#norm1 = new AdaptiveNorm(weights.at("norm1"), dim, dual ? 9 : 6);
    this.#norm1Context = contextPreOnly
      ? new AdaLayerNormContinuous(contextNorm, dim)
      : new AdaptiveNorm(contextNorm, dim, 6);
    const text = contextPreOnly ? "read" : "joint";
    this.#attn = new JointAttention(weights.at("attn"), { dim, heads, qkNorm, text });
    this.#attn2 = dual ? new JointAttention(weights.at("attn2"), { dim, heads, qkNorm, text: "none" }) : undefined;
    this.#ff = new FeedForward(weights.at("ff"), dim);
    this.#ffContext = contextPreOnly ? undefined : new FeedForward(weights.at("ff_context"), dim);
  }

  /**
   * @param image [B, N, dim]
   * @param text [B, M, dim]
   * @param activated SiLU of the embedding of timestep and text, [B, dim]
   */
  forward(image: Tensor, text: Tensor, activated: Tensor): JointTokens {
    return tidy(() => {
      const [own, context] = [this.#norm1.vectors(activated), this.#norm1Context.vectors(activated)];
      const attended = tidy(() => this.#attend(image, text, own, context));
      const out = tidy(() => this.#perceptron(this.#ff, attended.image, own));
      if (attended.text === undefined) return { image: out, text: undefined };
      return { image: out, text: this.#perceptron(this.#ffContext!, attended.text, context) };
    });
  }

  /** The tokens with what they attend to, and the text's only if it has an output. */
  #attend(image: Tensor, text: Tensor, own: readonly Tensor[], context: readonly Tensor[]): JointTokens {
    const [shift, scale, gate] = own as [Tensor, Tensor, Tensor];
    const [textShift, textScale] = (this.contextPreOnly ? context.toReversed() : context) as [Tensor, Tensor];
    const read = modulated(text, textScale, textShift);
    const joint = this.#attn.forward(modulated(image, scale, shift), read);
    let x = gated(image, gate, joint.image);
    if (this.#attn2 !== undefined) {
      const [shift2, scale2, gate2] = own.slice(6) as [Tensor, Tensor, Tensor];
      x = gated(x, gate2, this.#attn2.forward(modulated(image, scale2, shift2)).image);
    }
    return { image: x, text: joint.text && gated(text, context[2]!, joint.text) };
  }

  #perceptron(ff: FeedForward, x: Tensor, vectors: readonly Tensor[]): Tensor {
    const [shift, scale, gate] = vectors.slice(3) as [Tensor, Tensor, Tensor];
    return gated(x, gate, ff.forward(modulated(x, scale, shift)));
  }
}
