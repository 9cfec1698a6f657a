/**
 * SD3Transformer2DModel: the velocity predictor of Stable Diffusion 3 and 3.5; the config alone decides which. Source:
 * "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv 2403.03206) and diffusers' model of
 * that name, whose config keys and checkpoint keys these are.
 *
 * Departures: SiLU of the embedding of timestep and text is computed once instead of in every block.
 */
import { Linear, type Weights } from "../nn/index.js";
import { cat, checkpoint, relay, silu, tidy, type Tensor } from "../torch/index.js";
import { TimestepEmbedding, Timesteps, timestepTensor } from "./embeddings.js";
import { AdaLayerNormContinuous, JointTransformerBlock, type JointTokens } from "./joint-transformer-block.js";
import { PatchEmbed } from "./patch-embed.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";
import {
  outChannelsOf,
  parseSD3TransformerConfig,
  widthOf,
  type SD3TransformerConfig,
  type SD3TransformerConfigInput,
} from "./sd3-config.js";

/** The text of a batch, a row each. */
export interface SD3Text {
  /** [B, M, joint_attention_dim] */
  readonly encoderHiddenStates: Tensor;
  /** [B, pooled_projection_dim] */
  readonly pooledProjections: Tensor;
}

/** Fixed in diffusers. */
const TIME_CHANNELS = 256;

export class SD3Transformer2DModel extends PretrainedModel<SD3TransformerConfig> {
  static readonly layout: ModelLayout<SD3TransformerConfig, SD3TransformerConfigInput> = {
    className: "SD3Transformer2DModel",
    stem: "diffusion_pytorch_model",
    parseConfig: parseSD3TransformerConfig,
  };

  /**
   * Whether the backward pass recomputes each block instead of keeping its activations. Memory per image falls to that of
   * one of them and the tokens between them, and a training step takes about one more forward pass.
   */
  gradientCheckpointing = false;
  readonly #posEmbed: PatchEmbed;
  readonly #timeProj: Timesteps;
  readonly #timestepEmbedder: TimestepEmbedding;
  readonly #textEmbedder: TimestepEmbedding;
  readonly #contextEmbedder: Linear;
  readonly #blocks: readonly JointTransformerBlock[];
  readonly #normOut: AdaLayerNormContinuous;
  readonly #projOut: Linear;

  constructor(config: SD3TransformerConfig, weights: Weights) {
    super(config, weights);
    const dim = widthOf(config);
    const { patch_size: patchSize, num_layers: depth } = config;
    this.#posEmbed = new PatchEmbed(weights.at("pos_embed"), {
      inChannels: config.in_channels,
      dim,
      patchSize,
      maxSize: config.pos_embed_max_size,
      baseSize: Math.floor(config.sample_size / patchSize),
    });
    this.#timeProj = new Timesteps(TIME_CHANNELS, { flipSinToCos: true, freqShift: 0 });
    const embedder = weights.at("time_text_embed");
    this.#timestepEmbedder = new TimestepEmbedding(embedder.at("timestep_embedder"), TIME_CHANNELS, dim);
    this.#textEmbedder = new TimestepEmbedding(embedder.at("text_embedder"), config.pooled_projection_dim, dim);
    this.#contextEmbedder = new Linear(weights.at("context_embedder"), config.joint_attention_dim, dim);
    this.#blocks = Array.from(
      { length: depth },
      (_, i) =>
        new JointTransformerBlock(weights.at(`transformer_blocks.${i}`), {
          dim,
          heads: config.num_attention_heads,
          qkNorm: config.qk_norm === "rms_norm",
          dual: config.dual_attention_layers.includes(i),
          contextPreOnly: i === depth - 1,
        }),
    );
    this.#normOut = new AdaLayerNormContinuous(weights.at("norm_out"), dim);
    this.#projOut = new Linear(weights.at("proj_out"), dim, patchSize ** 2 * outChannelsOf(config));
  }

  /**
   * Predicts the velocity, noise - x_0, of noisy latents.
   *
   * @param sample [B, in_channels, H, W], sides multiples of patch_size
   * @param timesteps in 0..1000, one for all rows, or one per row
   * @returns [B, out_channels, H, W]
   * @throws RangeError for sides that are no multiples of the patch, or beyond the position table
   */
  forward(sample: Tensor, timesteps: number | readonly number[] | Tensor, text: SD3Text): Tensor {
    return tidy(() => {
      const [batch, , height, width] = sample.shape as [number, number, number, number];
      this.#checkText(text, batch);
      const image = this.#posEmbed.forward(sample);
      const embedding = tidy(() => silu(this.#embed(timesteps, sample, text)));
      const activated = this.gradientCheckpointing ? relay(embedding) : embedding;
      const context = this.#contextEmbedder.forward(text.encoderHiddenStates.to({ dtype: sample.dtype }));
      const hidden = this.#transform(image, context, activated);
      const patches = this.#projOut.forward(this.#normOut.forward(hidden, activated));
      return this.#unpatchify(patches, height, width);
    });
  }

  override dispose(): void {
    super.dispose();
    this.#timeProj.dispose();
  }

  /** The blocks: image [B, N, dim] and text [B, M, dim], which are freed -> image */
  #transform(image: Tensor, text: Tensor, activated: Tensor): Tensor {
    let tokens: JointTokens = { image, text };
    for (const block of this.#blocks) {
      const { image, text } = tokens;
      tokens = this.gradientCheckpointing
        ? checkpointed(block, tokens, activated)
        : block.forward(image, text!, activated);
      image.dispose();
      text!.dispose();
    }
    return tokens.image;
  }

  /** The embedding of timestep and pooled text, [B, dim]. */
  #embed(
    timesteps: number | readonly number[] | Tensor,
    { shape: [batch], dtype, device }: Tensor,
    { pooledProjections }: SD3Text,
  ): Tensor {
    const steps = timestepTensor(timesteps, batch!).to({ device });
    const time = this.#timestepEmbedder.forward(this.#timeProj.forward(steps).to({ dtype }));
    return this.#textEmbedder.forward(pooledProjections.to({ dtype })).add(time);
  }

  /** Tokens [B, N, patch * patch * channels] to images [B, channels, H, W] */
  #unpatchify(tokens: Tensor, height: number, width: number): Tensor {
    const { patch_size: patch } = this.config;
    const channels = outChannelsOf(this.config);
    return tokens
      .view([-1, height / patch, width / patch, patch, patch, channels])
      .permute([0, 5, 1, 3, 2, 4])
      .reshape([-1, channels, height, width]);
  }

  #checkText({ encoderHiddenStates, pooledProjections }: SD3Text, batch: number): void {
    for (const [name, { shape }] of Object.entries({ encoderHiddenStates, pooledProjections })) {
      if (shape[0] === batch) continue;
      throw new Error(`Expected ${batch} rows, as in the sample, for ${name} but received ${shape[0]}`);
    }
  }
}

/** A block as one segment of checkpointing, whose result is one tensor: image and text in a row. */
function checkpointed(block: JointTransformerBlock, { image, text }: JointTokens, activated: Tensor): JointTokens {
  const joined = checkpoint(
    (image, text, activated) => {
      const out = block.forward(image, text, activated);
      return out.text === undefined ? out.image : cat([out.image, out.text], 1);
    },
    [image, text!, activated],
  );
  if (block.contextPreOnly) return { image: joined, text: undefined };
  const [images, texts] = [image.size(1), text!.size(1)];
  const tokens = { image: joined.narrow(1, 0, images), text: joined.narrow(1, images, texts) };
  joined.dispose(); // the views remain
  return tokens;
}
