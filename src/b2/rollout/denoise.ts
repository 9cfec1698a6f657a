/** Denoises a batch over a part of its trajectory, with noise that depends on each row's address alone. */
import { fillNormal, type RandomAddress } from "../../base/philox.js";
import { checkInterrupted } from "../../base/progress.js";
import { inference, tensor, yieldToEventLoop, type Device, type Tensor } from "../../torch/index.js";
import type { Policy } from "../policy/policy.js";

/** The random address of a row's noise, without the step. */
export type NoiseKey = Omit<RandomAddress, "step">;

export interface DenoiseOptions {
  /** Of the whole trajectory. */
  readonly timesteps: readonly number[];
  /** First step, an index into `timesteps`. */
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  readonly signal?: AbortSignal | undefined;
  /** Whether a step, an index into `timesteps`, draws noise. Default: every step does. */
  readonly isNoisy?: ((step: number) => boolean) | undefined;
  /** Called after each step with x_{t-1} and the transition's log-prob, on the policy's device; do not keep them. */
  readonly onStep?: (step: number, x: Tensor, logProb: Tensor) => void;
}

/**
 * Denoises a batch over some of a trajectory's steps. Latents stay on the policy's device all the way.
 *
 * @param x [B, ...latent] on the policy's device; disposed of
 * @param noise one key per row; transition `step` draws at address step + 1
 * @returns the latents after the last step, on the policy's device; the caller disposes of them
 */
export async function denoise(
  policy: Policy,
  x: Tensor,
  prompts: readonly string[],
  noise: readonly NoiseKey[],
  { timesteps, from, to, isNoisy, signal, onStep }: DenoiseOptions,
): Promise<Tensor> {
  const shape = x.shape.slice(1);
  const { device } = policy;
  const conditioning = policy.samplingConditioning(prompts);
  try {
    for (let step = from; step < to; step++) {
      checkInterrupted(signal);
      const next = inference(() => {
        const timestep = timesteps[step]!;
        const prediction = policy.predict(x, timestep, conditioning);
        const draw =
          (isNoisy?.(step) ?? true)
            ? { noise: gaussian(noise, step + 1, shape, device) }
            : { deterministic: true as const };
        const { prevSample, logProb } = policy.transition(x, timestep, prediction, draw, timesteps.length);
        onStep?.(step, prevSample, logProb);
        return prevSample;
      });
      x.dispose();
      x = next;
      await yieldToEventLoop();
    }
    return x;
  } catch (error) {
    x.dispose();
    throw error;
  } finally {
    conditioning.dispose();
  }
}

/** Standard normal noise, one row per key: [B, ...shape]. The same numbers on every device. */
export function gaussian(
  keys: readonly NoiseKey[],
  step: number,
  shape: readonly number[],
  device: Device = "cpu",
): Tensor {
  const size = shape.reduce((product, n) => product * n, 1);
  const values = new Float32Array(keys.length * size);
  keys.forEach((key, row) => fillNormal(values, row * size, size, { ...key, step }));
  return tensor(values, { shape: [keys.length, ...shape], device });
}
