/**
 * The noise schedule: betas, and alpha-bar as their running product.
 *
 * Rounded to float32 where PyTorch does. The variance of the last steps is a difference of alpha-bars that agree in
 * three digits, so rounding errors in them show in the log-probabilities.
 */
import type { DDIMSchedulerConfig } from "./config.js";

const { fround, sqrt } = Math;

/** alpha-bar of every training timestep, [num_train_timesteps], falling from nearly 1 to nearly 0, or to 0 itself. */
export function alphasCumprod(config: DDIMSchedulerConfig): Float32Array {
  const own = betas(config);
  return running(config.rescale_betas_zero_snr ? withZeroTerminalSnr(own) : own);
}

function running(betas: Float32Array): Float32Array {
  let product = 1;
  return betas.map((beta) => (product *= fround(1 - beta)));
}

/**
 * Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891), algorithm 1: the
 * square root of alpha-bar is shifted to end in 0, and stretched to begin where it did.
 */
function withZeroTerminalSnr(betas: Float32Array): Float32Array {
  const roots = running(betas).map((alpha) => sqrt(alpha));
  const [first, last] = [roots[0]!, roots.at(-1)!];
  const stretch = fround(first / fround(first - last));
  const alphas = roots.map((root) => fround(root - last)).map((root) => fround(root * stretch) ** 2);
  return alphas.map((alpha, t) => 1 - (t === 0 ? alpha : fround(alpha / alphas[t - 1]!)));
}

function betas({
  beta_schedule: schedule,
  beta_start: start,
  beta_end: end,
  num_train_timesteps: count,
}: DDIMSchedulerConfig): Float32Array {
  switch (schedule) {
    case "linear":
      return linspace(start, end, count);
    case "scaled_linear":
      // Linear in the square root, Rombach et al. 2022.
      return linspace(sqrt(start), sqrt(end), count).map((root) => root * root);
    case "squaredcos_cap_v2": {
      // Nichol and Dhariwal 2021, eq. 17.
      const alphaBar = (t: number) => Math.cos(((t + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
      return Float32Array.from({ length: count }, (_, i) =>
        Math.min(1 - alphaBar((i + 1) / count) / alphaBar(i / count), 0.999),
      );
    }
    default:
      throw new Error(`Expected a known beta schedule but received ${String(schedule satisfies never)}`);
  }
}

/** From both ends towards the middle, as PyTorch does. */
function linspace(start: number, end: number, count: number): Float32Array {
  const [first, last] = [fround(start), fround(end)];
  const step = count > 1 ? fround((last - first) / (count - 1)) : 0;
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2 ? first + step * i : last - step * (count - 1 - i),
  );
}
