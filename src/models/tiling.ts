/**
 * Tiling: applies an image-to-image function to overlapping tiles and blends the results, so that its memory is bounded
 * by the tile, not by the image.
 *
 * Source: diffusers' AutoencoderKL.tiled_decode and tiled_encode, with the same tiles, order of blending and linear
 * weights. Departures: results are assembled row by row, so that at most one row of tiles is in memory; the overlap is
 * a whole number of latents on both sides, where diffusers rounds each side separately and misaligns seams for tile
 * sizes that are not multiples of four.
 */
import { arange, cat, tidy, type Tensor } from "../torch/index.js";

/** Sizes of input and output tiles, in pixels of the input and of the output. */
export interface TileSizes {
  /** Sides of a tile of the input; those at the right and at the bottom may be smaller. */
  readonly size: number;
  /** Distance between tiles of the input. */
  readonly stride: number;
  /** The same in the output. */
  readonly outputStride: number;
  /** Pixels of the output over which adjacent tiles are blended. */
  readonly blend: number;
}

/** A row of the output, and the last pixels of each of its tiles, which the next row is blended with. */
interface TileRow {
  readonly row: Tensor;
  readonly bottoms: readonly Tensor[];
}

/**
 * @param x [B, C, H, W]
 * @param forward of a tile [B, C, h, w]: [B, C', s h, s w] with s = outputStride / stride
 * @returns [B, C', s H, s W]
 */
export function inTiles(x: Tensor, sizes: TileSizes, forward: (tile: Tensor) => Tensor): Tensor {
  return tidy(() => {
    const rows: Tensor[] = [];
    let above: readonly Tensor[] = [];
    for (const [top, height] of spans(x.size(2), sizes)) {
      const { row, bottoms } = tidy(() => tileRow(x.narrow(2, top, height), above, sizes, forward));
      for (const bottom of above) bottom.dispose();
      rows.push(row);
      above = bottoms;
    }
    return cat(rows, 2);
  });
}

function tileRow(x: Tensor, above: readonly Tensor[], sizes: TileSizes, forward: (tile: Tensor) => Tensor): TileRow {
  const { outputStride, blend } = sizes;
  const pieces: Tensor[] = [];
  const bottoms: Tensor[] = [];
  let right: Tensor | undefined;
  spans(x.size(3), sizes).forEach(([left, width], i) => {
    // A tile is blended first with the tile above, then with the one to the left, both already blended themselves.
    const next = tidy(() => {
      let tile = forward(x.narrow(3, left, width));
      if (above[i] !== undefined) tile = blendInto(tile, above[i], blend, 2);
      if (right !== undefined) tile = blendInto(tile, right, blend, 3);
      const piece = first(first(tile, outputStride, 2), outputStride, 3).clone();
      return { piece, bottom: last(tile, blend, 2).clone(), right: last(tile, blend, 3).clone() };
    });
    right?.dispose();
    ({ right } = next);
    pieces.push(next.piece);
    bottoms.push(next.bottom);
  });
  return { row: cat(pieces, 3), bottoms };
}

/** Blends the first pixels of `tile` linearly with the last ones of its neighbour, with weights y / extent. */
function blendInto(tile: Tensor, neighbour: Tensor, blend: number, dim: 2 | 3): Tensor {
  const extent = Math.min(neighbour.size(dim), tile.size(dim), blend);
  if (extent === 0) return tile;
  const weight = arange(0, extent).to({ dtype: tile.dtype, device: tile.device }).div(extent);
  const own = dim === 2 ? weight.unsqueeze(-1) : weight; // [extent, 1] or [extent]
  const before = last(neighbour, extent, dim);
  const mixed = before.add(first(tile, extent, dim).sub(before).mul(own));
  const rest = tile.size(dim) - extent;
  return rest === 0 ? mixed : cat([mixed, last(tile, rest, dim)], dim);
}

/** Start and length of every tile along a side. */
function spans(length: number, { size, stride }: TileSizes): [start: number, length: number][] {
  return Array.from({ length: Math.ceil(length / stride) }, (_, i) => [
    i * stride,
    Math.min(size, length - i * stride),
  ]);
}

const first = (x: Tensor, count: number, dim: number) => x.narrow(dim, 0, Math.min(count, x.size(dim)));

function last(x: Tensor, count: number, dim: number): Tensor {
  const length = Math.min(count, x.size(dim));
  return x.narrow(dim, x.size(dim) - length, length);
}
