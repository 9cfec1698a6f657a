/** UNet2DConditionModel's passes in a ledger: the forward code of unet-2d-condition.ts and its blocks, in sizes. */
import { levelsOf, type LevelConfig, type UNetConfig } from "../unet-config.js";
import { Layers, type DenoiserBatch, type NetworkSetting } from "./layers.js";
import type { Sized } from "./ledger.js";
import { resnet } from "./resnet.js";

/** Bytes of a forward pass without gradient, with the keys and values of the text computed before. */
export function unetForwardBytes(config: UNetConfig, batch: DenoiserBatch, setting: NetworkSetting): number {
  const unet = new UNetPass(config, batch, new Layers(batch.rows, setting));
  unet.forward(unet.encodeText());
  return unet.layers.peak;
}

/** Bytes of a forward and backward pass: activations and their gradients, those of parameters not counted. */
export function unetTrainingBytes(
  config: UNetConfig,
  batch: DenoiserBatch,
  { gradientCheckpointing, ...setting }: NetworkSetting & { readonly gradientCheckpointing: boolean },
): number {
  const unet = new UNetPass(config, batch, new Layers(batch.rows, setting, true), gradientCheckpointing);
  const { layers } = unet;
  layers.backward(layers.tidy(() => unet.forward(unet.encodeText())));
  return layers.peak;
}

/** Keys and values of the text, for each block of each transformer. */
type KeyValues = readonly (readonly [key: Sized, value: Sized])[];
type Text = ReadonlyMap<string, KeyValues>;

/** Resnets with transformers at one resolution. */
interface Attention {
  readonly name: string;
  readonly channels: number;
  readonly heads: number;
  readonly blocks: number;
  readonly crossAttentionDim: number;
}

class UNetPass {
  readonly layers: Layers;
  readonly #config: UNetConfig;
  readonly #levels: readonly LevelConfig[];
  readonly #batch: DenoiserBatch;
  readonly #checkpoints: boolean;

  constructor(config: UNetConfig, batch: DenoiserBatch, layers: Layers, checkpoints = false) {
    this.#config = config;
    this.#levels = levelsOf(config);
    this.#batch = batch;
    this.layers = layers;
    this.#checkpoints = checkpoints;
  }

  encodeText(): Text {
    const { layers } = this;
    const { rows, tokens } = this.#batch;
    const attentions = this.#attentions();
    const flat = layers.tidy(() =>
      attentions.flatMap(({ channels, blocks, crossAttentionDim }) => {
        const context = layers.make(rows * tokens * crossAttentionDim);
        const project = (to: string) => layers.linear(`attn2.${to}`, context, crossAttentionDim, channels);
        return Array.from({ length: blocks }, () => layers.tidy(() => [project("to_k"), project("to_v")])).flat();
      }),
    );
    let next = 0;
    const pair = (): readonly [Sized, Sized] => [flat[next++]!, flat[next++]!];
    return new Map(attentions.map(({ name, blocks }) => [name, Array.from({ length: blocks }, pair)]));
  }

  forward(text: Text): Sized {
    const { layers } = this;
    const sizes = this.#sizes();
    return layers.tidy(() => {
      const first = this.#levels[0]!.channels;
      const { in_channels: inputs, out_channels: outputs } = this.#config;
      const latents = layers.make(sizes[0]! * inputs);
      let x = layers.conv("conv_in", latents, sizes[0]!, [inputs, first, 3]);
      const skips: [x: Sized, channels: number][] = [[x, first]];
      let channels = first;
      this.#levels.forEach((level, i) => {
        for (let j = 0; j < level.layers; j++) {
          x = this.#piece(x, [channels, level.channels], sizes[i]!, this.#attention("down", i, j), text);
          channels = level.channels;
          skips.push([x, channels]);
        }
        if (i === this.#levels.length - 1) return;
        const input = x;
        x = layers.tidy(() => layers.conv("conv", input, sizes[i + 1]!, [channels, channels, 3]));
        skips.push([x, channels]);
      });
      if (this.#config.mid_block_type !== null) {
        x = this.#piece(x, [channels, channels], sizes.at(-1)!, this.#attention("mid", 0, 0), text, true);
      }
      for (let i = this.#levels.length - 1; i >= 0; i--)
        x = this.#up(x, channels, i, skips, text, (to) => (channels = to));
      const normed = layers.silu(layers.norm(x));
      return layers.conv("conv_out", normed, sizes[0]!, [first, outputs, 3]);
    });
  }

  #up(input: Sized, from: number, i: number, skips: [Sized, number][], text: Text, leave: (to: number) => void): Sized {
    const { layers } = this;
    const level = this.#levels[i]!;
    const sizes = this.#sizes();
    leave(level.channels);
    return layers.tidy(() => {
      let [x, channels] = [input, from];
      for (let j = 0; j <= level.layers; j++) {
        const [skip, more] = skips.pop()!;
        const before = x;
        const joined = layers.tidy(() => layers.apply(before.elements + skip.elements, { inputs: [before, skip] }));
        x = this.#piece(joined, [channels + more, level.channels], sizes[i]!, this.#attention("up", i, j), text);
        layers.dispose(joined);
        channels = level.channels;
      }
      if (i === 0) return x;
      const low = x;
      return layers.tidy(() => {
        const large = layers.apply(sizes[i - 1]! * channels, { inputs: [low] });
        return layers.conv("conv", large, sizes[i - 1]!, [channels, channels, 3]);
      });
    });
  }

  /** A resnet with its transformer, and in the middle another resnet: the unit of checkpointing. */
  #piece(
    x: Sized,
    [inputs, outputs]: readonly [number, number],
    pixels: number,
    attention: Attention | undefined,
    text: Text,
    isMiddle = false,
  ): Sized {
    const { layers } = this;
    const own = attention === undefined ? [] : text.get(attention.name)!;
    const run = (x: Sized, own: readonly (readonly [Sized, Sized])[]): Sized => {
      const h = resnet(layers, x, [inputs, outputs], pixels);
      if (attention === undefined) return h;
      const attended = this.#transformer(h, attention, pixels, own);
      return isMiddle ? resnet(layers, attended, [outputs, outputs], pixels) : attended;
    };
    if (!this.#checkpoints) return layers.tidy(() => run(x, own));
    return layers.checkpoint(
      (x, ...flat) =>
        run(
          x,
          own.map((_, i) => [flat[2 * i]!, flat[2 * i + 1]!] as const),
        ),
      [x, ...own.flat()],
    );
  }

  #transformer(x: Sized, { channels, heads, blocks }: Attention, pixels: number, text: KeyValues): Sized {
    const { layers } = this;
    return layers.tidy(() => {
      let tokens = layers.tidy(() => layers.linear("proj_in", layers.norm(x), channels, channels));
      for (let i = 0; i < blocks; i++) {
        const next = this.#block(tokens, channels, heads, pixels, text[i]!);
        layers.dispose(tokens);
        tokens = next;
      }
      return layers.add(layers.linear("proj_out", tokens, channels, channels), x);
    });
  }

  #block(x: Sized, channels: number, heads: number, pixels: number, [key, value]: readonly [Sized, Sized]): Sized {
    const { layers } = this;
    const tokens = pixels / this.#batch.rows;
    const project = (name: string, x: Sized): Sized => layers.linear(name, x, channels, channels);
    const a = layers.tidy(() => {
      const normed = layers.norm(x);
      const [k, v, q] = ["to_k", "to_v", "to_q"].map((to) => project(`attn1.${to}`, normed)) as [Sized, Sized, Sized];
      const attended = layers.attention(q, k, v, { heads, tokens, keys: tokens });
      return layers.add(project("attn1.to_out.0", attended), x);
    });
    const b = layers.tidy(() => {
      const q = project("attn2.to_q", layers.norm(a));
      const attended = layers.attention(q, key, value, { heads, tokens, keys: this.#batch.tokens });
      return layers.add(project("attn2.to_out.0", attended), a);
    });
    layers.dispose(a);
    const c = layers.tidy(() => {
      const inner = 4 * channels;
      const projected = layers.linear("ff.net.0.proj", layers.norm(b), channels, 2 * inner);
      const half = projected.elements / 2;
      const open = layers.apply(half, { inputs: [projected], keeps: [projected] });
      const gated = open.grad ? layers.apply(half, { inputs: [open, projected], keeps: [open, projected] }) : open;
      return layers.add(layers.linear("ff.net.2", gated, inner, channels), b);
    });
    layers.dispose(b);
    return c;
  }

  /** Pixels of the latents at each level, over the batch. */
  #sizes(): number[] {
    const { rows, height, width } = this.#batch;
    let [h, w] = [height, width];
    return this.#levels.map((_, i) => {
      if (i > 0) [h, w] = [Math.ceil(h / 2), Math.ceil(w / 2)];
      return rows * h * w;
    });
  }

  #attention(path: "down" | "mid" | "up", i: number, j: number): Attention | undefined {
    const level = path === "mid" ? this.#levels.at(-1)! : this.#levels[i]!;
    const attends = {
      down: level.downAttends,
      mid: this.#config.mid_block_type === "UNetMidBlock2DCrossAttn",
      up: level.upAttends,
    };
    const blocks = (path === "up" ? level.upTransformers : level.downTransformers)[j]!;
    if (!attends[path]) return undefined;
    const { channels, heads, crossAttentionDim } = level;
    return { name: `${path}.${i}.${j}`, channels, heads, blocks, crossAttentionDim };
  }

  #attentions(): Attention[] {
    const all = this.#levels.flatMap(({ layers }, i) => [
      ...Array.from({ length: layers }, (_, j) => this.#attention("down", i, j)),
      ...Array.from({ length: layers + 1 }, (_, j) => this.#attention("up", i, j)),
    ]);
    return [...all, this.#attention("mid", 0, 0)].filter((one) => one !== undefined);
  }
}
