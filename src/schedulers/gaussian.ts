/** The normal distribution that a transition is drawn from, one standard deviation a row. */
import { tensor, type Tensor } from "../torch/index.js";

/** log N(x; mean, sigma^2), mean over all dimensions but the first: [B] */
export function meanLogDensity(x: Tensor, mean: Tensor, sigma: readonly number[]): Tensor {
  // A row without noise has no density: its variance counts as infinite and its constant as 0.
  const precision = sigma.map((s) => (s > 0 ? 1 / (2 * s * s) : 0));
  const constant = sigma.map((s) => (s > 0 ? -Math.log(s) - Math.log(2 * Math.PI) / 2 : 0));
  const distance = x.sub(mean).square().flatten(1).mean({ dim: 1 });
  const perRow = (values: readonly number[]) =>
    tensor(Float32Array.from(values), { shape: [values.length], device: x.device });
  return perRow(constant).sub(distance.mul(perRow(precision)));
}

/** One number a row, shaped to broadcast over the rest: [B, 1, 1, 1] */
export function columnOf(values: readonly number[], like: Tensor): Tensor {
  const shape = like.shape.map((_, dim) => (dim === 0 ? values.length : 1));
  return tensor(Float32Array.from(values), { shape, device: like.device });
}
