/**
 * Layers that are stored otherwise than diffusers has them: queries, keys and values that share one pair of matrices, and
 * norms whose shift comes before their scale.
 *
 * One matrix of three adapters is B's on a diagonal of blocks and A's on top of each other, of three times the rank:
 *
 *   [B_q  0   0 ] [A_q]
 *   [ 0  B_k  0 ] [A_k]
 *   [ 0   0  B_v] [A_v]
 *
 * The product is that of the three. Where they have the same A, as after reading a file that was trained as
 * one, they keep their rank. Alpha grows with the rank, so that alpha / rank stays what it is.
 */
import { InputError } from "../base/errors.js";
import { halvesSwapped } from "../nn/index.js";
import { cat, tensor, zeros, type Tensor } from "../torch/index.js";
import type { LoraLayer } from "./layer.js";

/** The layer with the second half of B's rows first. */
export const swapHalves = (layer: LoraLayer): LoraLayer => ({ ...layer, b: halvesSwapped(layer.b) });

/**
 * One layer of the adapted ones of queries, keys and values.
 *
 * @param thirds in this order; those that are not adapted are undefined
 * @param source named in errors
 * @throws InputError if their sizes differ
 */
export function joinThirds(thirds: readonly (LoraLayer | undefined)[], source: string): LoraLayer {
  const layers = thirds.filter((layer) => layer !== undefined);
  const first = layers[0]!;
  const [inputs, outputs] = [first.a.size(1), first.b.size(0)];
  const other = layers.find(({ a, b }) => a.size(1) !== inputs || b.size(0) !== outputs);
  if (other !== undefined) {
    const received = `${other.a.size(1)} and ${other.b.size(0)} for ${other.path}`;
    throw new InputError(
      `${source}: Expected ${inputs} inputs and ${outputs} outputs, as ${first.path} has, but received ${received}`,
    );
  }
  const blank = (columns: number): Tensor => zeros([outputs, columns], { device: first.b.device });
  if (layers.every(({ a, alpha }) => alpha === first.alpha && a.equal(first.a))) {
    return { ...first, b: cat(thirds.map((layer) => layer?.b ?? blank(first.a.size(0)))) };
  }
  const scaleOf = ({ a, alpha }: LoraLayer): number => alpha / a.size(0);
  const rank = layers.reduce((sum, { a }) => sum + a.size(0), 0);
  const isOneScale = layers.every((layer) => scaleOf(layer) === scaleOf(first));
  let before = 0;
  const rows = thirds.map((layer) => {
    if (layer === undefined) return blank(rank);
    const own = layer.a.size(0);
    const b = isOneScale ? layer.b : layer.b.mul(scaleOf(layer));
    before += own;
    return cat([blank(before - own), b, blank(rank - before)], 1);
  });
  return {
    ...first,
    a: cat(layers.map(({ a }) => a)),
    b: cat(rows),
    alpha: isOneScale ? (first.alpha * rank) / first.a.size(0) : rank,
  };
}

/**
 * The inverse. Each third gets the components of the rank that reach it, so that a diagonal of blocks falls apart into what
 * it was made of. A third that none reaches is not adapted, unless that goes for all.
 *
 * @param paths of queries, keys and values
 * @param file named in errors
 * @throws InputError if B's rows are not three times as many
 */
export function splitThirds(layer: LoraLayer, paths: readonly string[], file: string): LoraLayer[] {
  const { a, b, alpha } = layer;
  const [outputs, rank] = b.shape as [number, number];
  if (outputs === 0 || outputs % 3 !== 0) {
    const expected = `outputs of queries, keys and values, a multiple of 3, for ${layer.path}`;
    throw new InputError(`${file}: Expected ${expected} but received ${outputs}`);
  }
  const split = b.chunk(3).map((third, i): LoraLayer => {
    const used = reaching(third);
    const index = tensor(BigInt64Array.from(used.map(BigInt)), { shape: [used.length], dtype: "int64" });
    const own = used.length === rank ? { a, b: third } : { a: a.indexSelect(0, index), b: third.indexSelect(1, index) };
    return { ...layer, path: paths[i]!, ...own, alpha: (alpha * used.length) / rank };
  });
  const adapted = split.filter((third) => third.a.size(0) > 0);
  if (adapted.length > 0) return adapted;
  return b.chunk(3).map((third, i) => ({ ...layer, path: paths[i]!, b: third }));
}

/** The columns of a matrix that are not all zeros. */
const reaching = (matrix: Tensor): number[] =>
  matrix
    .abs()
    .amax({ dim: 0 })
    .toArray()
    .flatMap((largest, i) => (largest === 0 ? [] : [i]));
