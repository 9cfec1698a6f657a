/** The normal distribution of a transition, with one standard deviation per row. */
import { tensor, type Tensor } from "../torch/index.js";

/** log N(x; mean, sigma^2), averaged over all dimensions but the first: [B]. 0 for rows whose sigma is 0. */
export function meanLogDensity(x: Tensor, mean: Tensor, sigma: readonly number[]): Tensor {
  // A row without noise has no density: treat its variance as infinite and its constant as 0.
  const precision = sigma.map((s) => (s > 0 ? 1 / (2 * s * s) : 0));
  const constant = sigma.map((s) => (s > 0 ? -Math.log(s) - Math.log(2 * Math.PI) / 2 : 0));
  const distance = x.sub(mean).square().flatten(1).mean({ dim: 1 });
  const perRow = (values: readonly number[]) =>
    tensor(Float32Array.from(values), { shape: [values.length], device: x.device });
  return perRow(constant).sub(distance.mul(perRow(precision)));
}

/** The source of x_{t-1}: standard normal noise to draw it with, or a sample drawn earlier. */
export interface Draw {
  readonly noise?: Tensor | undefined;
  readonly prevSample?: Tensor | undefined;
}

/**
 * x_{t-1} from N(mean, sigma^2), drawn or given, with its log-density. The sample is detached, because it is the
 * action.
 *
 * @param mean [B, ...]
 * @param sigma one per row
 * @throws TypeError if a sigma is not 0 and there is neither noise nor a sample
 */
export function drawTransition(
  mean: Tensor,
  sigma: readonly number[],
  { noise, prevSample }: Draw,
): { readonly prevSample: Tensor; readonly logProb: Tensor } {
  const isStochastic = sigma.some((value) => value > 0);
  if (prevSample === undefined && noise === undefined && isStochastic) {
    throw new TypeError("Expected noise or prevSample for a step whose sigma is not 0 but received neither");
  }
  const drawn = isStochastic && noise !== undefined ? mean.add(noise.mul(columnOf(sigma, mean))) : mean;
  const next = (prevSample ?? drawn).detach();
  return { prevSample: next, logProb: meanLogDensity(next, mean, sigma) };
}

/** One timestep per row of a batch. @throws RangeError if the number of timesteps is not the batch size */
export function timestepsOf(timestep: number | readonly number[], batch: number): readonly number[] {
  const rows = typeof timestep === "number" ? Array<number>(batch).fill(timestep) : timestep;
  if (rows.length === batch) return rows;
  throw new RangeError(`Expected ${batch} timesteps for a batch of ${batch} but received ${rows.length}`);
}

/** One number per row, shaped to broadcast over the rest: [B, 1, 1, 1]. On the device of `like`. */
export function columnOf(values: readonly number[], like: Tensor): Tensor {
  const shape = like.shape.map((_, dim) => (dim === 0 ? values.length : 1));
  return tensor(Float32Array.from(values), { shape, device: like.device });
}
