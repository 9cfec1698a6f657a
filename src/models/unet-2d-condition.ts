/**
 * UNet2DConditionModel: the noise predictor of Stable Diffusion 1, 2 and XL; the config alone decides which.
 * Source: diffusers' model of that name, whose config keys and checkpoint keys these are.
 *
 * Departures: one class for blocks with and without attention; SiLU of the time embedding is computed once instead of
 * in every resnet; keys and values of the text can be computed once for many steps (`encodeText`), and a prompt that
 * many rows of a batch share is projected once.
 */
import { Conv2d, GroupNorm, type Weights } from "../nn/index.js";
import { cat, relay, silu, tidy, type Tensor } from "../torch/index.js";
import { siluOfFresh } from "./activations.js";
import type { KeyValue } from "./attention.js";
import { TimestepEmbedding, Timesteps, timestepTensor } from "./embeddings.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";
import type { Transformer2DModel } from "./transformer-2d.js";
import {
  DownBlock2D,
  UNetMidBlock2DCrossAttn,
  UpBlock2D,
  type BlockAttention,
  type BlockContext,
} from "./unet-blocks.js";
import { levelsOf, parseUNetConfig, type LevelConfig, type UNetConfig, type UNetConfigInput } from "./unet-config.js";

/** SDXL's additional conditioning. */
export interface AddedConditions {
  /** Pooled text, [B, P]. */
  readonly textEmbeds: Tensor;
  /** Original height and width, top and left of the crop, target height and width: [B, 6]. */
  readonly timeIds: Tensor;
}

export interface UNetForwardOptions {
  /** Required when config.addition_embed_type is "text_time". */
  readonly added?: AddedConditions | undefined;
}

/** A batch's text as each attention layer's keys and values, made by `encodeText`. */
export class TextKeyValues {
  readonly batch: number;
  readonly layers: ReadonlyMap<Transformer2DModel, readonly KeyValue[]>;

  constructor(batch: number, layers: ReadonlyMap<Transformer2DModel, readonly KeyValue[]>) {
    this.batch = batch;
    this.layers = layers;
  }

  /** Selects rows for another batch. @param rows int64 [n] */
  select(rows: Tensor): TextKeyValues {
    // Indexed with tokens before heads, as in memory, so that whole rows are copied.
    const pick = (states: Tensor) => states.transpose(1, 2).indexSelect(0, rows).transpose(1, 2);
    const select = ({ key, value }: KeyValue) => ({ key: pick(key), value: pick(value) });
    const layers = tidy(() => new Map([...this.layers].map(([layer, blocks]) => [layer, blocks.map(select)] as const)));
    return new TextKeyValues(rows.numel, layers);
  }

  /** Frees the keys and values. */
  dispose(): void {
    for (const { key, value } of [...this.layers.values()].flat()) {
      key.dispose();
      value.dispose();
    }
  }
}

export class UNet2DConditionModel extends PretrainedModel<UNetConfig> {
  static readonly layout: ModelLayout<UNetConfig, UNetConfigInput> = {
    className: "UNet2DConditionModel",
    stem: "diffusion_pytorch_model",
    parseConfig: parseUNetConfig,
  };

  /**
   * Whether the backward pass recomputes each resnet with its transformer instead of keeping their activations. Memory
   * per image falls to that of one of them, and a training step takes about one more forward pass.
   */
  gradientCheckpointing = false;
  readonly #timeProj: Timesteps;
  readonly #timeEmbedding: TimestepEmbedding;
  readonly #added: { readonly proj: Timesteps; readonly embedding: TimestepEmbedding } | undefined;
  readonly #convIn: Conv2d;
  readonly #downBlocks: readonly DownBlock2D[];
  readonly #midBlock: UNetMidBlock2DCrossAttn | undefined;
  readonly #upBlocks: readonly UpBlock2D[];
  readonly #convNormOut: GroupNorm;
  readonly #convOut: Conv2d;

  constructor(config: UNetConfig, weights: Weights) {
    super(config, weights);
    const levels = levelsOf(config);
    const first = levels[0]!;
    const last = levels.at(-1)!;
    const timeEmbedDim = config.time_embedding_dim ?? 4 * first.channels;
    const sinusoid = { flipSinToCos: config.flip_sin_to_cos, freqShift: config.freq_shift };

    this.#convIn = new Conv2d(weights.at("conv_in"), config.in_channels, first.channels);
    this.#timeProj = new Timesteps(first.channels, sinusoid);
    this.#timeEmbedding = new TimestepEmbedding(weights.at("time_embedding"), first.channels, timeEmbedDim);
    if (config.addition_embed_type === "text_time") {
      const { addition_time_embed_dim: features, projection_class_embeddings_input_dim: inputs } = config;
      const embedding = new TimestepEmbedding(weights.at("add_embedding"), inputs!, timeEmbedDim);
      this.#added = { proj: new Timesteps(features!, sinusoid), embedding };
    }

    const block = (level: LevelConfig, attends: boolean, transformers: readonly number[]) => ({
      channels: level.channels,
      timeEmbedDim,
      groups: config.norm_num_groups,
      eps: config.norm_eps,
      attention: attends ? attentionOf(config, level, transformers) : undefined,
    });
    this.#downBlocks = levels.map(
      (level, i) =>
        new DownBlock2D(weights.at(`down_blocks.${i}`), {
          ...block(level, level.downAttends, level.downTransformers),
          inChannels: levels[Math.max(i - 1, 0)]!.channels,
          layers: level.layers,
          downsamples: level !== last,
        }),
    );
    if (config.mid_block_type !== null) {
      const attends = config.mid_block_type === "UNetMidBlock2DCrossAttn";
      const options = block(last, attends, last.downTransformers);
      this.#midBlock = new UNetMidBlock2DCrossAttn(weights.at("mid_block"), options);
    }
    this.#upBlocks = levels.toReversed().map((level, i) => {
      const above = levels[Math.max(levels.length - i - 2, 0)]!;
      const below = levels[Math.min(levels.length - i, levels.length - 1)]!;
      return new UpBlock2D(weights.at(`up_blocks.${i}`), {
        ...block(level, level.upAttends, level.upTransformers),
        inChannels: below.channels,
        // The layers of this level, then the output of the level above.
        skipChannels: [...Array.from({ length: level.layers }, () => level.channels), above.channels],
        upsamples: level !== first,
      });
    });
    this.#convNormOut = new GroupNorm(
      weights.at("conv_norm_out"),
      config.norm_num_groups,
      first.channels,
      config.norm_eps,
    );
    this.#convOut = new Conv2d(weights.at("conv_out"), first.channels, config.out_channels);
  }

  /**
   * Keys and values of a text for every cross-attention layer. Valid for every timestep, until the weights or the LoRA
   * of to_k and to_v change.
   *
   * @param encoderHiddenStates [B, M, cross_attention_dim]
   */
  encodeText(encoderHiddenStates: Tensor): TextKeyValues {
    const [batch, , features] = encoderHiddenStates.shape as [number, number, number];
    const blocks = [...this.#downBlocks, ...(this.#midBlock ? [this.#midBlock] : []), ...this.#upBlocks];
    const attentions = blocks.flatMap((block) => block.attentions);
    const layers = tidy(() => {
      const context = encoderHiddenStates.reshape([-1, features]); // [B * M, D]
      return new Map(
        // Each layer in a scope of its own: a LoRA's float32 copies would wait for the last of SDXL's 140 projections.
        attentions.map(
          (layer) => [layer, layer.blocks.map(({ attn2 }) => tidy(() => attn2.keyValue(context, batch)))] as const,
        ),
      );
    });
    return new TextKeyValues(batch, layers);
  }

  /**
   * Predicts the noise (or v) of noisy latents.
   *
   * @param sample [B, in_channels, H, W]
   * @param timesteps one for all rows, or one per row
   * @param text [B, M, cross_attention_dim], or the result of `encodeText`
   * @returns [B, out_channels, H, W]
   */
  forward(
    sample: Tensor,
    timesteps: number | readonly number[] | Tensor,
    text: Tensor | TextKeyValues,
    { added }: UNetForwardOptions = {},
  ): Tensor {
    return tidy(() => {
      const batch = sample.size(0);
      const keyValues = text instanceof TextKeyValues ? text : this.encodeText(text);
      if (keyValues.batch !== batch) {
        throw new Error(`Expected ${batch} rows, as in the sample, for the text but received ${keyValues.batch}`);
      }
      const activatedTime = tidy(() => silu(this.#embedTime(timesteps, sample, added)));
      const context: BlockContext = {
        activatedTime: this.gradientCheckpointing ? relay(activatedTime) : activatedTime,
        text: keyValues.layers,
        checkpoints: this.gradientCheckpointing,
      };
      let x = this.#convIn.forward(sample.contiguous({ memoryFormat: "channelsLast" }));
      const skips = [x];
      for (const block of this.#downBlocks) {
        skips.push(...block.forward(x, context));
        x = skips.at(-1)!;
      }
      if (this.#midBlock !== undefined) x = this.#midBlock.forward(x, context);
      for (const block of this.#upBlocks) x = block.forward(x, skips, context);
      return this.#convOut.forward(siluOfFresh(this.#convNormOut.forward(x)));
    });
  }

  override dispose(): void {
    super.dispose();
    this.#timeProj.dispose();
    this.#added?.proj.dispose();
  }

  /** The time embedding with SDXL's conditioning: [B, timeEmbedDim], or [1, timeEmbedDim] if all rows agree. */
  #embedTime(
    timesteps: number | readonly number[] | Tensor,
    { shape: [batch], dtype, device }: Tensor,
    added: AddedConditions | undefined,
  ): Tensor {
    const steps = timestepTensor(timesteps, batch!).to({ device });
    const embedded = this.#timeEmbedding.forward(this.#timeProj.forward(steps).to({ dtype }));
    if (this.#added === undefined) return embedded;
    if (added === undefined) {
      throw new Error("Expected textEmbeds and timeIds for addition_embed_type text_time but received none");
    }
    const { textEmbeds, timeIds } = added;
    const times = this.#added.proj.forward(timeIds.flatten()).reshape([timeIds.size(0), -1]); // [B, 6 * features]
    const features = cat([textEmbeds, times.to({ dtype: textEmbeds.dtype })], 1).to({ dtype });
    return embedded.add(this.#added.embedding.forward(features));
  }
}

function attentionOf(config: UNetConfig, level: LevelConfig, layers: readonly number[]): BlockAttention {
  return {
    heads: level.heads,
    layers,
    crossAttentionDim: level.crossAttentionDim,
    useLinearProjection: config.use_linear_projection === true,
    upcastAttention: config.upcast_attention === true,
  };
}
