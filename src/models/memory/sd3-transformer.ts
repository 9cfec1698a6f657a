/** SD3Transformer2DModel's passes in a ledger: the forward code of sd3-transformer-2d.ts and its blocks, in sizes. */
import { outChannelsOf, widthOf, type SD3TransformerConfig } from "../sd3-config.js";
import { Layers, type DenoiserBatch, type NetworkSetting } from "./layers.js";
import type { Sized } from "./ledger.js";

/** Channels of the sinusoids of a timestep. */
const TIME_CHANNELS = 256;

/** Bytes of a forward pass without gradient. */
export function sd3ForwardBytes(config: SD3TransformerConfig, batch: DenoiserBatch, setting: NetworkSetting): number {
  const transformer = new SD3Pass(config, batch, new Layers(batch.rows, setting));
  transformer.forward();
  return transformer.layers.peak;
}

/** Bytes of a forward and backward pass: activations and their gradients, those of parameters not counted. */
export function sd3TrainingBytes(
  config: SD3TransformerConfig,
  batch: DenoiserBatch,
  { gradientCheckpointing, ...setting }: NetworkSetting & { readonly gradientCheckpointing: boolean },
): number {
  const transformer = new SD3Pass(config, batch, new Layers(batch.rows, setting, true), gradientCheckpointing);
  const { layers } = transformer;
  layers.backward(transformer.forward());
  return layers.peak;
}

/** Tokens of image and text; no text where it has no output. Between checkpointed blocks both are one tensor, the first. */
type Tokens = readonly [image: Sized] | readonly [image: Sized, text: Sized];

class SD3Pass {
  readonly layers: Layers;
  readonly #config: SD3TransformerConfig;
  readonly #batch: DenoiserBatch;
  readonly #checkpoints: boolean;
  readonly #dim: number;
  /** Tokens of an image. */
  readonly #patches: number;

  constructor(config: SD3TransformerConfig, batch: DenoiserBatch, layers: Layers, checkpoints = false) {
    this.#config = config;
    this.#batch = batch;
    this.layers = layers;
    this.#checkpoints = checkpoints;
    this.#dim = widthOf(config);
    this.#patches = (batch.height * batch.width) / config.patch_size ** 2;
  }

  forward(): Sized {
    const { layers } = this;
    const { rows, tokens: textTokens } = this.#batch;
    const { joint_attention_dim: states, num_layers: depth, patch_size: patch } = this.#config;
    return layers.tidy(() => {
      const image = layers.tidy(() => this.#embedPatches());
      const activated = layers.tidy(() => this.#embed());
      const text = layers.make(rows * textTokens * states);
      let tokens: Tokens = [image, layers.linear("context_embedder", text, states, this.#dim)];
      for (let i = 0; i < depth; i++) {
        const next: Tokens = this.#checkpoints
          ? [layers.checkpoint((...inputs) => this.#checkpointed(i, inputs), [...tokens, activated])]
          : this.#block(i, tokens, activated);
        for (const each of tokens) layers.dispose(each);
        tokens = next;
      }
      const normed = this.#modulated(tokens[0], this.#vectors("norm_out.linear", activated, 2));
      const patches = layers.linear("proj_out", normed, this.#dim, patch ** 2 * outChannelsOf(this.#config));
      return layers.apply(patches.elements, { inputs: [patches] });
    });
  }

  #embedPatches(): Sized {
    const { layers } = this;
    const { in_channels: channels, patch_size: patch } = this.#config;
    const { rows, height, width } = this.#batch;
    const latents = layers.make(rows * height * width * channels);
    const image = layers.conv("pos_embed.proj", latents, rows * this.#patches, [channels, this.#dim, patch]);
    layers.make(this.#patches * this.#dim); // the positions
    return layers.apply(image.elements, { inputs: [image] });
  }

  /** The embedding of timestep and text. */
  #embed(): Sized {
    const { layers } = this;
    const [time, text] = [TIME_CHANNELS, this.#config.pooled_projection_dim].map((features) => {
      const hidden = layers.linear("linear_1", layers.make(layers.batch * features), features, this.#dim);
      return layers.linear("linear_2", layers.silu(hidden), this.#dim, this.#dim);
    }) as [Sized, Sized];
    return layers.silu(layers.add(text, time));
  }

  /** A block as a segment: its result is image and text in one tensor, and so is its first input behind the first block. */
  #checkpointed(i: number, inputs: readonly Sized[]): Sized {
    const { layers } = this;
    const activated = inputs.at(-1)!;
    const [image, text] = this.#block(i, i === 0 ? [inputs[0]!, inputs[1]!] : this.#parts(inputs[0]!), activated);
    return text === undefined ? image : layers.apply(image.elements + text.elements, { inputs: [image, text] });
  }

  /** Views of image and text, which count as copies: so much is taken by their gradients. */
  #parts(tokens: Sized): Tokens {
    const part = (count: number): Sized =>
      this.layers.apply(this.#batch.rows * count * this.#dim, { inputs: [tokens] });
    return [part(this.#patches), part(this.#batch.tokens)];
  }

  #block(i: number, [image, text]: Tokens, activated: Sized): Tokens {
    const { layers } = this;
    const { num_layers: depth, dual_attention_layers: dual } = this.#config;
    const isLast = i === depth - 1;
    const isDual = dual.includes(i);
    const own = this.#vectors("norm1.linear", activated, isDual ? 9 : 6);
    const context = this.#vectors("norm1_context.linear", activated, isLast ? 2 : 6);
    const tokens = layers.tidy((): readonly Sized[] => {
      const attended = layers.tidy((): readonly Sized[] => {
        const read = this.#modulated(text!, context);
        const [joint, ofText] = this.#attention("attn", this.#modulated(image, own), { text: read, isRead: isLast });
        let x = this.#gated(image, joint, own);
        if (isDual) x = this.#gated(x, this.#attention("attn2", this.#modulated(image, own))[0], own);
        return ofText === undefined ? [x] : [x, this.#gated(text!, ofText, context)];
      });
      return ["ff", "ff_context"].slice(0, attended.length).map((name, j) => {
        return layers.tidy(() => this.#perceptron(name, attended[j]!, [own, context][j]!));
      });
    });
    for (const each of [own, context]) layers.dispose(each);
    return tokens as unknown as Tokens;
  }

  #attention(name: string, image: Sized, context?: { readonly text: Sized; readonly isRead: boolean }): Tokens {
    const { layers } = this;
    const heads = this.#config.num_attention_heads;
    const texts = context === undefined ? 0 : this.#batch.tokens;
    const count = this.#patches + texts;
    return layers.tidy((): Tokens => {
      const [q, k, v] = layers.tidy(() => {
        const own = this.#projections(name, ["to_q", "to_k", "to_v"], image);
        if (context === undefined) return own;
        const other = this.#projections(name, ["add_q_proj", "add_k_proj", "add_v_proj"], context.text);
        return own.map((x, i) => layers.apply(x.elements + other[i]!.elements, { inputs: [x, other[i]!] }));
      }) as [Sized, Sized, Sized];
      const attended = layers.attention(q, k, v, { heads, tokens: count, keys: count });
      const project = (to: string, { elements }: Sized): Sized => {
        const rows = context === undefined ? attended : layers.apply(elements, { inputs: [attended] });
        return layers.linear(`${name}.${to}`, rows, this.#dim, this.#dim);
      };
      const out = project("to_out.0", image);
      return context === undefined || context.isRead ? [out] : [out, project("to_add_out", context.text)];
    });
  }

  /** Queries, keys and values, of which the first two are normalised. */
  #projections(name: string, layersOf: readonly string[], tokens: Sized): Sized[] {
    const { layers } = this;
    return layersOf.map((to, i) =>
      layers.tidy(() => {
        const x = layers.linear(`${name}.${to}`, tokens, this.#dim, this.#dim);
        return i < 2 && this.#config.qk_norm !== null ? layers.rmsNorm(x, this.#config.attention_head_dim) : x;
      }),
    );
  }

  #perceptron(name: string, x: Sized, vectors: Sized): Sized {
    const { layers } = this;
    const normed = this.#modulated(x, vectors);
    const inner = layers.tidy(() => {
      const wide = layers.linear(`${name}.net.0.proj`, normed, this.#dim, 4 * this.#dim);
      return layers.apply(wide.elements, { inputs: [wide], keeps: [wide] });
    });
    return this.#gated(x, layers.linear(`${name}.net.2`, inner, 4 * this.#dim, this.#dim), vectors);
  }

  /** The vectors of adaptive layer norms, from the embedding. */
  #vectors(name: string, activated: Sized, count: number): Sized {
    return this.layers.linear(name, activated, this.#dim, count * this.#dim);
  }

  #modulated(x: Sized, vectors: Sized): Sized {
    return this.layers.tidy(() => this.#times(this.layers.apply(x.elements, { inputs: [x], keeps: [x] }), vectors));
  }

  /** x + gate y */
  #gated(x: Sized, y: Sized, vectors: Sized): Sized {
    return this.layers.add(this.#times(y, vectors), x);
  }

  /** y times a vector, whose gradient is a sum over the tokens. */
  #times(y: Sized, { grad }: Sized): Sized {
    return this.layers.apply(y.elements, { inputs: [y], ...(grad && { keeps: [y], backwardScratch: y.bytes }) });
  }
}
