/** AutoencoderKL's decoding in a ledger: the forward code of vae-blocks.ts, in sizes. */
import type { AutoencoderKLConfig } from "../autoencoder-kl.js";
import { Layers, type NetworkSetting } from "./layers.js";
import type { Sized } from "./ledger.js";
import { resnet } from "./resnet.js";

/** Latents to be decoded in one pass. */
export interface VaeBatch {
  readonly images: number;
  /** Of the latents. */
  readonly height: number;
  readonly width: number;
  readonly tiling: boolean;
}

/** diffusers' overlap of tiles, see autoencoder-kl.ts. */
const OVERLAP = 0.25;

type Setting = Omit<NetworkSetting, "trains">;

/** Bytes of decoding, the images themselves included. */
export function vaeDecodeBytes(config: AutoencoderKLConfig, batch: VaeBatch, setting: Setting): number {
  const { sample_size: trained, block_out_channels: channels, out_channels: outputs } = config;
  const { images, height, width, tiling } = batch;
  const scale = 2 ** (channels.length - 1);
  const size = Math.floor((typeof trained === "number" ? trained : trained[0]!) / scale);
  const peakOf = (height: number, width: number): number => {
    const layers = new Layers(images, { ...setting, trains: "nothing" });
    decode(layers, config, height, width);
    return layers.peak;
  };
  if (!tiling || Math.max(height, width) <= size) return peakOf(height, width);
  const stride = Math.max(1, Math.floor(size * (1 - OVERLAP)));
  const spans = (length: number): (readonly [start: number, length: number])[] =>
    Array.from({ length: Math.ceil(length / stride) }, (_, i) => [i * stride, Math.min(size, length - i * stride)]);
  const bytesOf = (latents: number): number => images * latents * scale ** 2 * outputs * setting.itemBytes;
  const peaks = spans(height).flatMap(([top, h], i) =>
    spans(width).map(([left, w]) => {
      // Rows that are done, the pieces of this one, and what both hand on for blending.
      const done = top * width + Math.min(stride, h) * left;
      const blended = (size - stride) * ((i > 0 ? width : 0) + left);
      return bytesOf(done + blended) + peakOf(h, w);
    }),
  );
  return Math.max(...peaks);
}

function decode(layers: Layers, config: AutoencoderKLConfig, height: number, width: number): Sized {
  const { latent_channels: latents, layers_per_block: count, out_channels: outputs } = config;
  const channels = config.block_out_channels.toReversed();
  let [pixels, from] = [layers.batch * height * width, channels[0]!];
  return layers.tidy(() => {
    let x = layers.make(pixels * latents);
    if (config.use_post_quant_conv) x = layers.conv("post_quant_conv", x, pixels, [latents, latents, 1]);
    const z = x;
    const next = (run: (x: Sized) => Sized): void => {
      const y = run(x);
      if (x !== z) layers.dispose(x);
      x = y;
    };
    const activated = layers.tidy(() => {
      next((z) => layers.conv("conv_in", z, pixels, [latents, from, 3]));
      next((x) => resnet(layers, x, [from, from], pixels));
      if (config.mid_block_add_attention) next((x) => attention(layers, x, from, pixels));
      next((x) => resnet(layers, x, [from, from], pixels));
      channels.forEach((width, i) => {
        for (let j = 0; j <= count; j++) {
          next((x) => resnet(layers, x, [from, width], pixels));
          from = width;
        }
        if (i === channels.length - 1) return;
        pixels *= 4;
        next((x) =>
          layers.tidy(() => {
            const large = layers.apply(pixels * from, { inputs: [x] });
            return layers.conv("conv", large, pixels, [from, from, 3]);
          }),
        );
      });
      return layers.silu(layers.norm(x));
    });
    return layers.conv("conv_out", activated, pixels, [from, outputs, 3]);
  });
}

function attention(layers: Layers, x: Sized, channels: number, pixels: number): Sized {
  return layers.tidy(() => {
    const tokens = layers.norm(x);
    const [q, k, v] = [1, 2, 3].map(() => layers.linear("linear", tokens, channels, channels)) as [Sized, Sized, Sized];
    const each = pixels / layers.batch;
    const attended = layers.attention(q, k, v, { heads: 1, tokens: each, keys: each });
    return layers.add(layers.linear("linear", attended, channels, channels), x);
  });
}
