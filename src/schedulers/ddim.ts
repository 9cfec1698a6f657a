/**
 * DDIM (Song et al. 2020, arXiv 2010.02502) as a stochastic policy: each step draws x_{t-1} from a normal distribution
 * whose log-density policy-gradient training needs (Black et al. 2023, arXiv 2305.13301). Timesteps and coefficients
 * are those of diffusers' DDIMScheduler.
 *
 * Departures from it: the step before timestep 0 is timestep 0 itself, not "no noise at all", so that sigma is
 * positive whenever eta is; every row of a batch may have its own timestep; the log-probability is the mean over the
 * latent's dimensions, because with the sum the ratio of two policies overflows.
 */
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject, type JsonObject } from "../base/files.js";
import type { Tensor } from "../torch/index.js";
import { parseSchedulerConfig, type DDIMSchedulerConfig } from "./config.js";
import { columnOf, drawTransition, timestepsOf } from "./gaussian.js";
import { alphasCumprod } from "./noise-schedule.js";
import { SchedulerConfigError } from "./rules.js";
import { defineScheduler, type Scheduler, type SchedulerStep, type Transition } from "./scheduler.js";

const { fround, sqrt } = Math;

/** Input of a DDIM step. */
export interface DDIMStep extends SchedulerStep {
  /** 0 is deterministic, 1 has the variance of the ancestral sampler. Default: the scheduler's own. */
  readonly eta?: number;
}

/** The coefficients of one row's transition, eq. 12 of the paper. */
interface Coefficients {
  readonly sqrtAlpha: number;
  readonly sqrtOneMinusAlpha: number;
  readonly sqrtAlphaPrev: number;
  /** Of the "direction pointing to x_t". */
  readonly direction: number;
  readonly sigma: number;
}

/** Options of the scheduler. */
export interface DDIMOptions {
  /** Default eta of `step`: 1 gives the ancestral sampler's noise, 0 none. Default 1. */
  readonly eta?: number;
}

/** DDIM with noise, see the top of this file. */
export class DDIMScheduler implements Scheduler {
  readonly config: DDIMSchedulerConfig;
  readonly eta: number;
  /** alpha-bar of every training timestep. */
  readonly alphasCumprod: Float32Array;

  constructor(config: DDIMSchedulerConfig, { eta = 1 }: DDIMOptions = {}) {
    this.config = config;
    this.eta = eta;
    this.alphasCumprod = alphasCumprod(config);
  }

  /** @throws SchedulerConfigError with a sentence for every key at fault */
  static fromConfig(config: object, source?: string, options?: DDIMOptions): DDIMScheduler {
    return new DDIMScheduler(parseSchedulerConfig(config, source), options);
  }

  /** @throws SchedulerConfigError naming the file, with a sentence for every key at fault */
  static fromPretrained(folder: string, options?: DDIMOptions): DDIMScheduler {
    const file = join(folder, "scheduler_config.json");
    return DDIMScheduler.fromConfig(readJsonObject(file, SchedulerConfigError), file, options);
  }

  toConfig(): JsonObject {
    return { _class_name: "DDIMScheduler", ...this.config };
  }

  get numTrainTimesteps(): number {
    return this.config.num_train_timesteps;
  }

  get maxInferenceSteps(): number {
    return this.config.num_train_timesteps;
  }

  /** The timesteps of a trajectory, descending, spaced as in diffusers. @throws RangeError for an impossible count */
  timesteps(numInferenceSteps: number): number[] {
    this.#checkSteps(numInferenceSteps);
    const { num_train_timesteps: trained, timestep_spacing: spacing, steps_offset: offset } = this.config;
    const indices = Array.from({ length: numInferenceSteps }, (_, i) => i);
    switch (spacing) {
      case "leading": {
        const ratio = Math.floor(trained / numInferenceSteps);
        const first = (numInferenceSteps - 1) * ratio + offset;
        if (first >= trained) {
          throw new RangeError(
            `Expected other numInferenceSteps than ${numInferenceSteps}, whose first timestep, with a steps_offset of ` +
              `${offset}, would be ${first} of ${trained}`,
          );
        }
        return indices.map((i) => (numInferenceSteps - 1 - i) * ratio + offset);
      }
      case "linspace": {
        const ratio = numInferenceSteps === 1 ? 0 : (trained - 1) / (numInferenceSteps - 1);
        return indices.map((i) => roundHalfToEven((numInferenceSteps - 1 - i) * ratio));
      }
      case "trailing":
        return indices.map((i) => roundHalfToEven(trained - i * (trained / numInferenceSteps)) - 1);
      default:
        throw new Error(`Expected a known timestep spacing but received ${String(spacing satisfies never)}`);
    }
  }

  /** One transition x_t -> x_{t-1}, drawn from noise or given, with its log-probability. */
  step(options: DDIMStep): Transition {
    const { modelOutput, timestep, sample, numInferenceSteps, noise, deterministic = false } = options;
    const { eta = deterministic ? 0 : this.eta } = options;
    const batch = sample.size(0);
    const rows = this.#perRow(timestep, batch).map((t) => this.#coefficients(t, numInferenceSteps, eta));
    const column = (key: keyof Coefficients): Tensor => {
      const values = rows.map((row) => row[key]);
      return columnOf(values, sample);
    };
    const prediction = modelOutput.to({ dtype: "float32" });

    const { x0, epsilon } = this.#parts(prediction, sample, column("sqrtAlpha"), column("sqrtOneMinusAlpha"));
    const range = this.config.clip_sample_range;
    const predOriginalSample = this.config.clip_sample ? x0.clamp({ min: -range, max: range }) : x0;
    // Eq. 12: sqrt(a_prev) x_0 + sqrt(1 - a_prev - sigma^2) epsilon, plus sigma times noise.
    const mean = predOriginalSample.mul(column("sqrtAlphaPrev")).add(epsilon.mul(column("direction")));

    const sigma = rows.map((row) => row.sigma);
    return {
      ...drawTransition(mean, sigma, { noise, prevSample: options.prevSample }),
      mean,
      sigma,
      predOriginalSample,
    };
  }

  marginal(timestep: number): { signal: number; noise: number } {
    this.#perRow(timestep, 1);
    const alpha = this.alphasCumprod[timestep]!;
    return { signal: sqrt(alpha), noise: sqrt(fround(1 - alpha)) };
  }

  addNoise(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor {
    const { signal, spread } = this.#mixture(x0, timesteps);
    return x0.mul(signal).add(noise.mul(spread));
  }

  target(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor {
    const type = this.config.prediction_type;
    switch (type) {
      case "epsilon":
        return noise;
      case "sample":
        return x0;
      case "v_prediction": {
        const { signal, spread } = this.#mixture(x0, timesteps);
        return noise.mul(signal).sub(x0.mul(spread));
      }
      default:
        throw new Error(`Expected a known prediction type but received ${String(type satisfies never)}`);
    }
  }

  originalSample(modelOutput: Tensor, sample: Tensor, timesteps: readonly number[]): Tensor {
    const { signal, spread } = this.#mixture(sample, timesteps);
    return this.#parts(modelOutput.to({ dtype: "float32" }), sample, signal, spread).x0;
  }

  /** x_0 and epsilon from the model's prediction, of whichever type. */
  #parts(prediction: Tensor, sample: Tensor, signal: Tensor, spread: Tensor): { x0: Tensor; epsilon: Tensor } {
    const type = this.config.prediction_type;
    switch (type) {
      case "epsilon":
        return { x0: sample.sub(prediction.mul(spread)).div(signal), epsilon: prediction };
      case "sample":
        return { x0: prediction, epsilon: sample.sub(prediction.mul(signal)).div(spread) };
      case "v_prediction":
        return {
          x0: sample.mul(signal).sub(prediction.mul(spread)),
          epsilon: prediction.mul(signal).add(sample.mul(spread)),
        };
      default:
        throw new Error(`Expected a known prediction type but received ${String(type satisfies never)}`);
    }
  }

  #coefficients(timestep: number, numInferenceSteps: number, eta: number): Coefficients {
    const previous = this.#previous(timestep, numInferenceSteps);
    const alpha = this.alphasCumprod[timestep]!;
    // Without noise, set_alpha_to_one makes the last step end at x_0 itself.
    const lands = previous < 0 && eta === 0 && this.config.set_alpha_to_one;
    const alphaPrev = lands ? 1 : this.alphasCumprod[Math.max(previous, 0)]!;
    const oneMinusAlpha = fround(1 - alpha);
    const oneMinusAlphaPrev = fround(1 - alphaPrev);
    // Eq. 16, in float32 as in PyTorch.
    const variance = fround(fround(oneMinusAlphaPrev / oneMinusAlpha) * fround(1 - fround(alpha / alphaPrev)));
    const sigma = fround(eta * fround(sqrt(variance)));
    return {
      sqrtAlpha: fround(sqrt(alpha)),
      sqrtOneMinusAlpha: fround(sqrt(oneMinusAlpha)),
      sqrtAlphaPrev: fround(sqrt(alphaPrev)),
      direction: fround(sqrt(Math.max(fround(oneMinusAlphaPrev - fround(sigma * sigma)), 0))),
      sigma,
    };
  }

  #previous(timestep: number, numInferenceSteps: number): number {
    this.#checkSteps(numInferenceSteps);
    return timestep - Math.floor(this.config.num_train_timesteps / numInferenceSteps);
  }

  #mixture(x0: Tensor, timesteps: readonly number[]): { signal: Tensor; spread: Tensor } {
    const rows = this.#perRow(timesteps, x0.size(0)).map((t) => this.marginal(t));
    const column = (values: readonly number[]): Tensor => columnOf(values, x0);
    return { signal: column(rows.map(({ signal }) => signal)), spread: column(rows.map(({ noise }) => noise)) };
  }

  #perRow(timestep: number | readonly number[], batch: number): readonly number[] {
    const rows = timestepsOf(timestep, batch);
    const last = this.config.num_train_timesteps - 1;
    for (const t of rows) {
      if (!Number.isInteger(t) || t < 0 || t > last) {
        throw new RangeError(`Expected a whole number from 0 to ${last} for a timestep but received ${t}`);
      }
    }
    return rows;
  }

  #checkSteps(count: number): void {
    const most = this.config.num_train_timesteps;
    if (!Number.isInteger(count) || count < 1 || count > most) {
      throw new RangeError(`Expected a whole number from 1 to ${most} for numInferenceSteps but received ${count}`);
    }
  }
}

/** Rounds halves to even, as numpy does. */
function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** The registry entry of DDIM. */
export const ddim = defineScheduler({
  name: "ddim",
  summary: "DDIM with the noise of DDPM: eta scales it, 1 is the ancestral sampler",
  options: z.object({
    eta: z
      .number()
      .min(0)
      .max(1)
      .default(1)
      .describe(
        "Scale of the noise: 1 is DDPM's. 0 is for objectives on final latents only, since without noise there are no log-probs and branches of a root are equal.",
      ),
  }),
  deterministicSteps: true,
  isDeterministic: ({ eta }) => eta === 0,
  open: (config, { eta }, source) => DDIMScheduler.fromConfig(config, source, { eta }),
});
