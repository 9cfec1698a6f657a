/**
 * PatchEmbed: latents to tokens, one for each patch, with sines and cosines of its place. The table is larger than any
 * image; an image takes the middle of it, so that the centre has the same place at every size ("Scaling Rectified Flow
 * Transformers", arXiv 2403.03206, section 5.3.2).
 */
import { showShape } from "../base/show.js";
import { Conv2d, Module, type Init, type Weights } from "../nn/index.js";
import { cat, tensor, tidy, type Tensor } from "../torch/index.js";

export interface PatchEmbedOptions {
  readonly inChannels: number;
  readonly dim: number;
  readonly patchSize: number;
  /** Patches along a side of the table. */
  readonly maxSize: number;
  /** Patches along a side of the images trained on, over which positions run from 0 to this number. */
  readonly baseSize: number;
}

const MAX_PERIOD = 10_000;

export class PatchEmbed extends Module {
  readonly #proj: Conv2d;
  /** [1, maxSize^2, dim], row by row. It does not learn. */
  readonly #table: Tensor;
  readonly #options: PatchEmbedOptions;

  constructor(weights: Weights, options: PatchEmbedOptions) {
    super(weights);
    const { inChannels, dim, patchSize, maxSize, baseSize } = options;
    this.#options = options;
    this.#proj = new Conv2d(weights.at("proj"), inChannels, dim, { kernel: patchSize, stride: patchSize, padding: 0 });
    this.#table = weights.buffer("pos_embed", [1, maxSize ** 2, dim], sinCosTable(dim, maxSize, baseSize));
  }

  /**
   * [B, inChannels, H, W] -> [B, H / patch * W / patch, dim]
   *
   * @throws RangeError for sides that are no multiples of the patch, or beyond the table
   */
  forward(latents: Tensor): Tensor {
    const { inChannels, patchSize, maxSize, dim } = this.#options;
    const [, channels, height = 0, width = 0] = latents.shape;
    const [rows, columns] = [height / patchSize, width / patchSize];
    const fits = (side: number) => Number.isInteger(side) && side >= 1 && side <= maxSize;
    if (latents.ndim !== 4 || channels !== inChannels || !fits(rows) || !fits(columns)) {
      throw new RangeError(
        `Expected [B, ${inChannels}, H, W] with sides that are multiples of ${patchSize}, at most ` +
          `${patchSize * maxSize}, for latents but received ${showShape(latents.shape)}`,
      );
    }
    return tidy(() => {
      const image = this.#proj.forward(latents.contiguous({ memoryFormat: "channelsLast" }));
      const tokens = image.permute([0, 2, 3, 1]).reshape([-1, rows * columns, dim]);
      return tokens.add(this.#cropped(rows, columns).to({ dtype: latents.dtype }));
    });
  }

  /** The middle of the table: [1, rows * columns, dim] */
  #cropped(rows: number, columns: number): Tensor {
    const { maxSize, dim } = this.#options;
    return this.#table
      .view([maxSize, maxSize, dim])
      .narrow(0, Math.floor((maxSize - rows) / 2), rows)
      .narrow(1, Math.floor((maxSize - columns) / 2), columns)
      .reshape([1, rows * columns, dim]);
  }
}

/** diffusers' get_2d_sincos_pos_embed: the first half of the features is the column's, the second the row's. */
function sinCosTable(dim: number, maxSize: number, baseSize: number): Init {
  return (shape, { dtype, device }) => {
    const line = sinCosLine(dim / 2, maxSize, baseSize).to({ device });
    const half = [maxSize, maxSize, dim / 2];
    return cat([line.unsqueeze(0).expand(half), line.unsqueeze(1).expand(half)], -1)
      .reshape(shape)
      .to({ dtype });
  };
}

/** Sines, then cosines, of each place along a side: float32 [maxSize, features] */
function sinCosLine(features: number, maxSize: number, baseSize: number): Tensor {
  const half = features / 2;
  const values = Array.from({ length: maxSize }, (_, i) => {
    const place = i / (maxSize / baseSize);
    const angles = Array.from({ length: half }, (_, k) => place * MAX_PERIOD ** (-k / half));
    return [...angles.map(Math.sin), ...angles.map(Math.cos)];
  });
  return tensor(Float32Array.from(values.flat()), { shape: [maxSize, features] });
}
