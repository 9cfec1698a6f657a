/**
 * Joint attention: image and text have projections of their own and attend to all tokens of both ("Scaling Rectified Flow
 * Transformers for High-Resolution Image Synthesis", arXiv 2403.03206, figure 2). Names are those of diffusers' Attention
 * with JointAttnProcessor2_0. Without a text it is plain self-attention.
 */
import { Linear, Module, RMSNorm, type Weights } from "../nn/index.js";
import { cat, scaledDotProductAttention, tidy, type Tensor } from "../torch/index.js";

export interface JointAttentionOptions {
  readonly dim: number;
  readonly heads: number;
  /** Root mean square norm of each head's queries and keys. */
  readonly qkNorm: boolean;
  /** Whether the text has an output ("joint"), is attended to only ("read"), or is not there ("none"). */
  readonly text: "joint" | "read" | "none";
}

/** The names of one stream's layers. */
interface StreamNames {
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly normQ: string;
  readonly normK: string;
}

const IMAGE: StreamNames = { q: "to_q", k: "to_k", v: "to_v", normQ: "norm_q", normK: "norm_k" };
const TEXT: StreamNames = {
  q: "add_q_proj",
  k: "add_k_proj",
  v: "add_v_proj",
  normQ: "norm_added_q",
  normK: "norm_added_k",
};

const EPS = 1e-6;

/** Queries, keys and values, [B, N, heads, headDim] each. */
type QKV = readonly [query: Tensor, key: Tensor, value: Tensor];

/** The projections of one stream of tokens. */
class Projections {
  readonly #q: Linear;
  readonly #k: Linear;
  readonly #v: Linear;
  readonly #normQ: RMSNorm | undefined;
  readonly #normK: RMSNorm | undefined;
  readonly #heads: number;

  constructor(weights: Weights, { dim, heads, qkNorm }: JointAttentionOptions, names: StreamNames) {
    const project = (name: string) => new Linear(weights.at(name), dim, dim);
    [this.#q, this.#k, this.#v] = [project(names.q), project(names.k), project(names.v)];
    if (qkNorm) {
      this.#normQ = new RMSNorm(weights.at(names.normQ), dim / heads, EPS);
      this.#normK = new RMSNorm(weights.at(names.normK), dim / heads, EPS);
    }
    this.#heads = heads;
  }

  /** [B, N, dim] -> queries, keys and values */
  forward(tokens: Tensor): QKV {
    const rows = tokens.flatten(0, 1);
    const split = (layer: Linear, norm?: RMSNorm): Tensor =>
      tidy(() => {
        const heads = layer.forward(rows).view([tokens.size(0), tokens.size(1), this.#heads, -1]);
        return norm?.forward(heads) ?? heads;
      });
    return [split(this.#q, this.#normQ), split(this.#k, this.#normK), split(this.#v)];
  }
}

export class JointAttention extends Module {
  readonly #image: Projections;
  readonly #toOut: Linear;
  readonly #text: Projections | undefined;
  readonly #toAddOut: Linear | undefined;

  constructor(weights: Weights, options: JointAttentionOptions) {
    super(weights);
    const { dim, text } = options;
    this.#image = new Projections(weights, options, IMAGE);
    this.#text = text === "none" ? undefined : new Projections(weights, options, TEXT);
    this.#toOut = new Linear(weights.at("to_out.0"), dim, dim);
    this.#toAddOut = text === "joint" ? new Linear(weights.at("to_add_out"), dim, dim) : undefined;
  }

  /**
   * Image [B, N, dim] and text [B, M, dim] -> the same; new tensors.
   *
   * @param text undefined where the text is not there
   * @returns without a text unless it has an output
   */
  forward(image: Tensor, text?: Tensor): { readonly image: Tensor; readonly text: Tensor | undefined } {
    return tidy(() => {
      const [q, k, v] = this.#project(image, text).map((each) => each.transpose(1, 2)) as unknown as QKV; // [B, heads, N + M, headDim]
      const attended = scaledDotProductAttention(q, k, v).transpose(1, 2).flatten(2); // [B, N + M, dim]
      const project = (layer: Linear, start: number, { shape }: Tensor): Tensor => {
        const rows = attended.narrow(1, start, shape[1]!).reshape([-1, shape[2]!]);
        return layer.forward(rows).view(shape);
      };
      const out = project(this.#toOut, 0, image);
      if (text === undefined || this.#toAddOut === undefined) return { image: out, text: undefined };
      return { image: out, text: project(this.#toAddOut, image.size(1), text) };
    });
  }

  /** The tokens of both, those of the image first. */
  #project(image: Tensor, text: Tensor | undefined): QKV {
    if (text === undefined) return this.#image.forward(image);
    return tidy(() => {
      const [own, other] = [this.#image.forward(image), this.#text!.forward(text)];
      return own.map((tensor, i) => cat([tensor, other[i]!], 1)) as unknown as QKV;
    });
  }
}
