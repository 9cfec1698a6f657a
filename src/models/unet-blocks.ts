/**
 * The down, mid and up blocks of UNet2DConditionModel. diffusers' CrossAttnDownBlock2D and DownBlock2D are one class
 * here, with and without attention after its resnets; likewise the up blocks.
 */
import { Module, type Weights } from "../nn/index.js";
import { cat, checkpoint, tidy, type Tensor } from "../torch/index.js";
import type { KeyValue } from "./attention.js";
import { Downsample2D, ResnetBlock2D, Upsample2D } from "./resnet.js";
import { Transformer2DModel, type Transformer2DOptions } from "./transformer-2d.js";

/** The transformers of a block; `layers` lists the number of blocks in each. */
export interface BlockAttention extends Omit<Transformer2DOptions, "channels" | "groups" | "layers"> {
  readonly layers: readonly number[];
}

/** Options shared by all blocks of a UNet, and the width and attention of this block. */
export interface BlockOptions {
  readonly channels: number;
  readonly timeEmbedDim: number;
  readonly groups: number;
  readonly eps: number;
  /** Undefined in blocks without attention. */
  readonly attention: BlockAttention | undefined;
}

/** What the blocks of one forward pass take besides their input. */
export interface BlockContext {
  /** SiLU of the time embedding, [B or 1, timeEmbedDim]. */
  readonly activatedTime: Tensor;
  /** Keys and values of the text for each transformer block. */
  readonly text: ReadonlyMap<Transformer2DModel, readonly KeyValue[]>;
  /** Whether the backward pass recomputes the pieces of the blocks instead of keeping their activations. */
  readonly checkpoints: boolean;
}

/** A piece of a block: the unit of gradient checkpointing. */
function piece(
  x: Tensor,
  context: BlockContext,
  attention: Transformer2DModel | undefined,
  run: (x: Tensor, context: BlockContext) => Tensor,
): Tensor {
  if (!context.checkpoints) return tidy(() => run(x, context));
  const keyValues = attention === undefined ? [] : context.text.get(attention)!;
  const inputs = [x, context.activatedTime, ...keyValues.flatMap(({ key, value }) => [key, value])];
  return checkpoint((x, activatedTime, ...flat) => {
    const text = keyValues.map((_, i): KeyValue => ({ key: flat[2 * i]!, value: flat[2 * i + 1]! }));
    const own = new Map(attention === undefined ? [] : [[attention, text]]);
    return run(x, { ...context, activatedTime: activatedTime, text: own });
  }, inputs);
}

/** Resnets, each followed by a transformer in blocks with attention. */
class Layers {
  readonly attentions: readonly Transformer2DModel[];
  readonly #resnets: readonly ResnetBlock2D[];

  /** @param inputs the channels that each resnet takes */
  constructor(weights: Weights, inputs: readonly number[], { channels, attention, ...options }: BlockOptions) {
    this.#resnets = inputs.map(
      (inChannels, i) =>
        new ResnetBlock2D(weights.at(`resnets.${i}`), { inChannels, outChannels: channels, ...options }),
    );
    this.attentions = transformers(weights, inputs.length, { channels, attention, ...options });
  }

  forward(i: number, x: Tensor, context: BlockContext): Tensor {
    const attention = this.attentions[i];
    return piece(x, context, attention, (x, { activatedTime, text }) => {
      const h = this.#resnets[i]!.forward(x, activatedTime);
      return attention === undefined ? h : attention.forward(h, text.get(attention)!);
    });
  }

  get length(): number {
    return this.#resnets.length;
  }
}

export class DownBlock2D extends Module {
  readonly #layers: Layers;
  readonly #downsampler: Downsample2D | undefined;

  constructor(
    weights: Weights,
    options: BlockOptions & { readonly inChannels: number; readonly layers: number; readonly downsamples: boolean },
  ) {
    super(weights);
    const { inChannels, layers, downsamples, ...block } = options;
    const inputs = Array.from({ length: layers }, (_, i) => (i === 0 ? inChannels : block.channels));
    this.#layers = new Layers(weights, inputs, block);
    if (downsamples) this.#downsampler = new Downsample2D(weights.at("downsamplers.0"), block.channels, 1);
  }

  get attentions(): readonly Transformer2DModel[] {
    return this.#layers.attentions;
  }

  /** [B, inChannels, H, W] -> the output of every layer, for the up path; the last is the block's own */
  forward(x: Tensor, context: BlockContext): Tensor[] {
    const outputs: Tensor[] = [];
    for (let i = 0; i < this.#layers.length; i++) {
      x = this.#layers.forward(i, x, context);
      outputs.push(x);
    }
    if (this.#downsampler !== undefined) outputs.push(this.#downsampler.forward(x));
    return outputs;
  }
}

/** Resnet, transformer, resnet; or, without attention (UNetMidBlock2D), a resnet alone. */
export class UNetMidBlock2DCrossAttn extends Module {
  readonly attentions: readonly Transformer2DModel[];
  readonly #before: ResnetBlock2D;
  readonly #after: ResnetBlock2D | undefined;

  constructor(weights: Weights, { attention, channels, ...options }: BlockOptions) {
    super(weights);
    const resnet = { inChannels: channels, outChannels: channels, ...options };
    this.#before = new ResnetBlock2D(weights.at("resnets.0"), resnet);
    this.attentions = transformers(weights, 1, { channels, attention, ...options });
    if (attention !== undefined) this.#after = new ResnetBlock2D(weights.at("resnets.1"), resnet);
  }

  /** [B, channels, H, W] -> the same */
  forward(x: Tensor, context: BlockContext): Tensor {
    const [attention] = this.attentions;
    return piece(x, context, attention, (x, { activatedTime, text }) => {
      const h = this.#before.forward(x, activatedTime);
      if (attention === undefined || this.#after === undefined) return h;
      return this.#after.forward(attention.forward(h, text.get(attention)!), activatedTime);
    });
  }
}

export class UpBlock2D extends Module {
  readonly #layers: Layers;
  readonly #upsampler: Upsample2D | undefined;

  /**
   * @param options.inChannels of the block below
   * @param options.skipChannels of the down path's outputs that its layers take, in order
   */
  constructor(
    weights: Weights,
    options: BlockOptions & {
      readonly inChannels: number;
      readonly skipChannels: readonly number[];
      readonly upsamples: boolean;
    },
  ) {
    super(weights);
    const { inChannels, skipChannels, upsamples, ...block } = options;
    const inputs = skipChannels.map((skip, i) => (i === 0 ? inChannels : block.channels) + skip);
    this.#layers = new Layers(weights, inputs, block);
    if (upsamples) this.#upsampler = new Upsample2D(weights.at("upsamplers.0"), block.channels);
  }

  get attentions(): readonly Transformer2DModel[] {
    return this.#layers.attentions;
  }

  /**
   * Removes its share from the end of `skips`, the outputs of the down path, and upsamples to the size of the next one,
   * since doubling would miss odd sizes of the down path.
   */
  forward(x: Tensor, skips: Tensor[], context: BlockContext): Tensor {
    return tidy(() => {
      for (let i = 0; i < this.#layers.length; i++) {
        const joined = tidy(() => cat([x, skips.pop()!], 1));
        x = this.#layers.forward(i, joined, context);
        joined.dispose();
      }
      if (this.#upsampler === undefined) return x;
      const [, , height, width] = skips.at(-1)!.shape as [number, number, number, number];
      return this.#upsampler.forward(x, [height, width]);
    });
  }
}

/** The first `count` transformers of a block with attention. */
function transformers(weights: Weights, count: number, { channels, groups, attention }: BlockOptions) {
  if (attention === undefined) return [];
  return attention.layers
    .slice(0, count)
    .map(
      (layers, i) => new Transformer2DModel(weights.at(`attentions.${i}`), { ...attention, channels, groups, layers }),
    );
}
