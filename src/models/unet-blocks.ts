/**
 * The down, mid and up blocks of UNet2DConditionModel. diffusers' CrossAttnDownBlock2D and DownBlock2D are one class
 * here, with and without attention behind its resnets; the up blocks likewise.
 */
import { Module, type Weights } from "../nn/index.js";
import { cat, checkpoint, tidy, type Tensor } from "../torch/index.js";
import type { KeyValue } from "./attention.js";
import { Downsample2D, ResnetBlock2D, Upsample2D } from "./resnet.js";
import { Transformer2DModel, type Transformer2DOptions } from "./transformer-2d.js";

/** The transformers of a block: `layers` has the number of blocks in each. */
export interface BlockAttention extends Omit<Transformer2DOptions, "channels" | "groups" | "layers"> {
  readonly layers: readonly number[];
}

/** What every block of one UNet shares, and the width and attention of this one. */
export interface BlockOptions {
  readonly channels: number;
  readonly timeEmbedDim: number;
  readonly groups: number;
  readonly eps: number;
  /** Undefined in blocks that do not see the text. */
  readonly attention: BlockAttention | undefined;
}

/** What the blocks of one forward pass see besides their input. */
export interface Conditions {
  /** SiLU of the time embedding, [B or 1, timeEmbedDim]. */
  readonly activatedTime: Tensor;
  /** The text as each transformer block's keys and values. */
  readonly text: ReadonlyMap<Transformer2DModel, readonly KeyValue[]>;
  /** Whether backward runs the pieces of the blocks again instead of keeping what they computed. */
  readonly checkpoints: boolean;
}

/** A piece of a block: the unit that is run again in backward. */
function piece(
  x: Tensor,
  conditions: Conditions,
  attention: Transformer2DModel | undefined,
  run: (x: Tensor, conditions: Conditions) => Tensor,
): Tensor {
  if (!conditions.checkpoints) return tidy(() => run(x, conditions));
  const keyValues = attention === undefined ? [] : conditions.text.get(attention)!;
  const inputs = [x, conditions.activatedTime, ...keyValues.flatMap(({ key, value }) => [key, value])];
  return checkpoint((x, activatedTime, ...flat) => {
    const text = keyValues.map((_, i): KeyValue => ({ key: flat[2 * i]!, value: flat[2 * i + 1]! }));
    const own = new Map(attention === undefined ? [] : [[attention, text]]);
    return run(x, { ...conditions, activatedTime: activatedTime, text: own });
  }, inputs);
}

/** Resnets, behind each a transformer where the block attends. */
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

  forward(i: number, x: Tensor, conditions: Conditions): Tensor {
    const attention = this.attentions[i];
    return piece(x, conditions, attention, (x, { activatedTime, text }) => {
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
  forward(x: Tensor, conditions: Conditions): Tensor[] {
    const outputs: Tensor[] = [];
    for (let i = 0; i < this.#layers.length; i++) {
      x = this.#layers.forward(i, x, conditions);
      outputs.push(x);
    }
    if (this.#downsampler !== undefined) outputs.push(this.#downsampler.forward(x));
    return outputs;
  }
}

/** Resnet, transformer, resnet; or, where the block does not attend (UNetMidBlock2D), a resnet alone. */
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
  forward(x: Tensor, conditions: Conditions): Tensor {
    const [attention] = this.attentions;
    return piece(x, conditions, attention, (x, { activatedTime, text }) => {
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
   * @param options.skipChannels of the down path's outputs that its layers take, in the order they take them
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
   * Takes its share off the end of `skips`, the outputs of the down path, and goes to the size of the next one: doubling
   * would miss the down path's odd sizes.
   */
  forward(x: Tensor, skips: Tensor[], conditions: Conditions): Tensor {
    return tidy(() => {
      for (let i = 0; i < this.#layers.length; i++) {
        const joined = tidy(() => cat([x, skips.pop()!], 1));
        x = this.#layers.forward(i, joined, conditions);
        joined.dispose();
      }
      if (this.#upsampler === undefined) return x;
      const [, , height, width] = skips.at(-1)!.shape as [number, number, number, number];
      return this.#upsampler.forward(x, [height, width]);
    });
  }
}

/** The first `count` transformers of a block that attends. */
function transformers(weights: Weights, count: number, { channels, groups, attention }: BlockOptions) {
  if (attention === undefined) return [];
  return attention.layers
    .slice(0, count)
    .map(
      (layers, i) => new Transformer2DModel(weights.at(`attentions.${i}`), { ...attention, channels, groups, layers }),
    );
}
