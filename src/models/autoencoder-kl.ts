/**
 * AutoencoderKL: images to latents and back (Rombach et al. 2022, section 3.1), as in diffusers.
 *
 * `slicing` and `tiling` bound the memory of large batches and of large images. Both are off by default: each tile has
 * its own norms and attention, so tiled images differ slightly from whole ones.
 */
import { z } from "zod";
import { showShape } from "../base/show.js";
import { Conv2d, type Weights } from "../nn/index.js";
import { cat, tidy, type Tensor } from "../torch/index.js";
import { layerCount, ModelConfigError, off, parseConfig, refuse, whole } from "./config.js";
import { PretrainedModel, type ModelLayout } from "./pretrained.js";
import { inTiles, type TileSizes } from "./tiling.js";
import { Decoder, Encoder } from "./vae-blocks.js";

const schema = z.strictObject({
  in_channels: whole.default(3),
  out_channels: whole.default(3),
  latent_channels: whole.default(4),
  block_out_channels: z.array(whole).min(1).default([64]),
  layers_per_block: layerCount.default(1),
  norm_num_groups: whole.default(32),
  down_block_types: z.array(z.literal("DownEncoderBlock2D")).optional(),
  up_block_types: z.array(z.literal("UpDecoderBlock2D")).optional(),
  act_fn: z.literal("silu").default("silu"),
  mid_block_add_attention: z.boolean().default(true),
  use_quant_conv: z.boolean().default(true),
  use_post_quant_conv: z.boolean().default(true),
  /** The denoiser's latents are those of `encode` without the shift, times this factor. */
  scaling_factor: z.number().positive().default(0.18215),
  /** Subtracted before scaling, where there is one. */
  shift_factor: z.number().nullish(),
  /** The image side in pixels that it was trained on. */
  sample_size: z.union([whole, z.array(whole).length(2)]).default(32),
  /** Whether the decoder overflows in float16 and needs float32. */
  force_upcast: z.boolean().default(true),
  latents_mean: off(null),
  latents_std: off(null),
});

export type AutoencoderKLConfig = z.output<typeof schema>;

/** @throws ModelConfigError with a sentence for every key at fault */
export function parseVaeConfig(config: object, source: string): AutoencoderKLConfig {
  const parsed = parseConfig(schema, config, source);
  const { block_out_channels: channels, norm_num_groups: groups } = parsed;
  const uneven = (["down_block_types", "up_block_types"] as const).flatMap((key) => {
    const length = parsed[key]?.length ?? channels.length;
    return length === channels.length
      ? []
      : [`Expected ${channels.length} entries, as in block_out_channels, for ${key} but received ${length}`];
  });
  const grouped = channels.every((width) => width % groups === 0)
    ? []
    : [`Expected multiples of norm_num_groups, ${groups}, for block_out_channels but received ${showShape(channels)}`];
  refuse(source, [...uneven, ...grouped]);
  return parsed;
}

/** A normal distribution over latents with independent dimensions; each tensor is [B, latent_channels, h, w]. */
export interface LatentDistribution {
  readonly mean: Tensor;
  readonly logvar: Tensor;
}

/** diffusers' tile_sample_min_size and tile_overlap_factor. */
export interface VaeTiling {
  /** Sides of a tile in pixels, a multiple of `downscale`. Default: the size that the model was trained on. */
  readonly tileSampleMinSize?: number;
  /** Share of a tile that overlaps its neighbour, in [0, 1); rounded up to whole latents. Default 0.25. */
  readonly tileOverlapFactor?: number;
}

/** Bounds on the log-variance, so that its exponential stays in range. */
const LOGVAR = { min: -30, max: 20 };

export class AutoencoderKL extends PretrainedModel<AutoencoderKLConfig> {
  static readonly layout: ModelLayout<AutoencoderKLConfig> = {
    className: "AutoencoderKL",
    stem: "diffusion_pytorch_model",
    parseConfig: parseVaeConfig,
  };

  /** How many pixels along a side one latent cell covers. */
  readonly downscale: number;
  /** Process one image of a batch at a time. */
  slicing = false;
  #tiling: VaeTiling | undefined;
  readonly #encoder: Encoder;
  readonly #decoder: Decoder;
  readonly #quantConv: Conv2d | undefined;
  readonly #postQuantConv: Conv2d | undefined;

  constructor(config: AutoencoderKLConfig, weights: Weights) {
    super(config, weights);
    const latents = config.latent_channels;
    const options = {
      channels: config.block_out_channels,
      layersPerBlock: config.layers_per_block,
      groups: config.norm_num_groups,
      midAttention: config.mid_block_add_attention,
    };
    this.downscale = 2 ** (config.block_out_channels.length - 1);
    this.#encoder = new Encoder(weights.at("encoder"), config.in_channels, 2 * latents, options);
    this.#decoder = new Decoder(weights.at("decoder"), latents, config.out_channels, options);
    const point = { kernel: 1 };
    if (config.use_quant_conv) {
      this.#quantConv = new Conv2d(weights.at("quant_conv"), 2 * latents, 2 * latents, point);
    }
    if (config.use_post_quant_conv) {
      this.#postQuantConv = new Conv2d(weights.at("post_quant_conv"), latents, latents, point);
    }
  }

  /** Process larger images in overlapping tiles. Default undefined: no tiling. `{}` is diffusers' tiling. */
  get tiling(): VaeTiling | undefined {
    return this.#tiling;
  }

  /** @throws RangeError for an impossible size or overlap; ModelConfigError if the config's size cannot be a tile's */
  set tiling(tiling: VaeTiling | undefined) {
    if (tiling !== undefined) this.#tile(tiling);
    this.#tiling = tiling;
  }

  /**
   * @param images [B, in_channels, H, W] in [-1, 1], H and W multiples of `downscale`
   * @returns not yet shifted, nor multiplied by the scaling factor
   */
  encode(images: Tensor): LatentDistribution {
    this.#check(images, this.config.in_channels, this.downscale, "images");
    return tidy(() => {
      const moments = this.#sliced(images, (some) => this.#tiled(some, "encode", (tile) => this.#moments(tile)));
      const [mean, logvar] = moments.chunk(2, 1) as [Tensor, Tensor];
      return { mean, logvar: logvar.clamp(LOGVAR) };
    });
  }

  /**
   * @param latents [B, latent_channels, h, w], already divided by the scaling factor, and shifted back
   * @returns [B, out_channels, H, W], in [-1, 1] but for overshoot
   */
  decode(latents: Tensor): Tensor {
    this.#check(latents, this.config.latent_channels, 1, "latents");
    return tidy(() => this.#sliced(latents, (some) => this.#tiled(some, "decode", (tile) => this.#pixels(tile))));
  }

  #moments(images: Tensor): Tensor {
    const hidden = this.#encoder.forward(images.contiguous({ memoryFormat: "channelsLast" }));
    return this.#quantConv?.forward(hidden) ?? hidden;
  }

  #pixels(latents: Tensor): Tensor {
    const z = latents.contiguous({ memoryFormat: "channelsLast" });
    return this.#decoder.forward(this.#postQuantConv?.forward(z) ?? z);
  }

  #sliced(x: Tensor, forward: (some: Tensor) => Tensor): Tensor {
    if (!this.slicing || x.size(0) === 1) return forward(x);
    return cat(x.split(1).map((one) => tidy(() => forward(one))));
  }

  #tiled(x: Tensor, way: "encode" | "decode", forward: (tile: Tensor) => Tensor): Tensor {
    if (this.#tiling === undefined) return forward(x);
    const sizes = this.#tile(this.#tiling)[way];
    return Math.max(x.size(2), x.size(3)) > sizes.size ? inTiles(x, sizes, forward) : forward(x);
  }

  /** Matching tile sizes for encoding and decoding. */
  #tile({ tileSampleMinSize, tileOverlapFactor = 0.25 }: VaeTiling): Record<"encode" | "decode", TileSizes> {
    const trained = this.config.sample_size;
    const pixels = tileSampleMinSize ?? (typeof trained === "number" ? trained : trained[0]!);
    const scale = this.downscale;
    if (tileSampleMinSize === undefined && pixels % scale !== 0) {
      throw new ModelConfigError(
        `Expected a multiple of ${scale}, the pixels per latent, for sample_size of the vae, which are the sides of its ` +
          `tiles, but received ${pixels}`,
      );
    }
    if (!Number.isInteger(pixels / scale) || pixels <= 0) {
      throw new RangeError(`Expected a positive multiple of ${scale} for tileSampleMinSize but received ${pixels}`);
    }
    if (!(tileOverlapFactor >= 0 && tileOverlapFactor < 1)) {
      throw new RangeError(`Expected 0 or more and below 1 for tileOverlapFactor but received ${tileOverlapFactor}`);
    }
    const size = pixels / scale;
    const stride = Math.max(1, Math.floor(size * (1 - tileOverlapFactor)));
    const blend = size - stride;
    return {
      decode: { size, stride, outputStride: stride * scale, blend: blend * scale },
      encode: { size: pixels, stride: stride * scale, outputStride: stride, blend },
    };
  }

  #check(x: Tensor, channels: number, multiple: number, name: string): void {
    const [, c, height = 0, width = 0] = x.shape;
    if (x.ndim === 4 && c === channels && height % multiple === 0 && width % multiple === 0) return;
    const sides = multiple === 1 ? "H, W" : `multiples of ${multiple}`;
    throw new RangeError(`Expected [B, ${channels}, ${sides}] for ${name} but received ${showShape(x.shape)}`);
  }
}
