/**
 * DDIM (Song et al. 2020, arXiv 2010.02502) as a stochastic policy: each step draws x_{t-1} from a normal distribution
 * whose log-density policy-gradient training needs (Black et al. 2023, arXiv 2305.13301). Timesteps and coefficients
 * are those of diffusers' DDIMScheduler.
 *
 * Departures from it: the step before timestep 0 is timestep 0 itself, not "no noise at all", so that sigma stays
 * positive where eta does; every row of a batch may be at a timestep of its own; the log-probability is the mean over
 * the latent's dimensions, because the sum overflows the ratio of two policies.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { tensor, type Tensor } from "../torch/index.js";
import { parseSchedulerConfig, SchedulerConfigError, type DDIMSchedulerConfig } from "./config.js";
import { alphasCumprod } from "./noise-schedule.js";

const { fround, sqrt } = Math;

/** What a transition starts from. One of `noise` and `prevSample` is needed unless eta is 0. */
export interface DDIMStep {
  /** The model's prediction, [B, C, H, W]; converted to float32. */
  readonly modelOutput: Tensor;
  /** Of the whole batch, or one for each row. */
  readonly timestep: number | readonly number[];
  /** x_t, float32 [B, C, H, W] */
  readonly sample: Tensor;
  readonly numInferenceSteps: number;
  /** 0 is deterministic, 1 has the variance of the ancestral sampler. Default 1. */
  readonly eta?: number;
  /** Standard normal, [B, C, H, W]: draws x_{t-1} from it. */
  readonly noise?: Tensor;
  /** An x_{t-1} that was drawn before: asks only for its log-probability. */
  readonly prevSample?: Tensor;
}

export interface DDIMTransition {
  /** x_{t-1}, float32 [B, C, H, W], without gradient */
  readonly prevSample: Tensor;
  /** of the distribution that x_{t-1} is drawn from, [B, C, H, W] */
  readonly mean: Tensor;
  /** its standard deviation, row by row */
  readonly sigma: readonly number[];
  /** log-density of x_{t-1}, mean over the latent's dimensions, [B]; 0 where sigma is 0 and there is no density */
  readonly logProb: Tensor;
  /** x_0 as predicted at this step, [B, C, H, W] */
  readonly predOriginalSample: Tensor;
}

/** The numbers of one row's transition, named after the paper's eq. 12. */
interface Coefficients {
  readonly sqrtAlpha: number;
  readonly sqrtOneMinusAlpha: number;
  readonly sqrtAlphaPrev: number;
  /** of the "direction pointing to x_t" */
  readonly direction: number;
  readonly sigma: number;
}

export class DDIMScheduler {
  /** alpha-bar of every training timestep */
  readonly alphasCumprod: Float32Array;

  constructor(readonly config: DDIMSchedulerConfig) {
    this.alphasCumprod = alphasCumprod(config);
  }

  /** @throws SchedulerConfigError with a sentence for every key at fault */
  static fromConfig(config: object, source?: string): DDIMScheduler {
    return new DDIMScheduler(parseSchedulerConfig(config, source));
  }

  /** @throws SchedulerConfigError naming the file, with a sentence for every key at fault */
  static fromPretrained(folder: string): DDIMScheduler {
    const file = join(folder, "scheduler_config.json");
    let config: unknown;
    try {
      config = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file)));
    } catch (cause) {
      throw new SchedulerConfigError(`${file}: Expected a JSON file but received: ${(cause as Error).message}`);
    }
    if (typeof config !== "object" || config === null || Array.isArray(config)) {
      throw new SchedulerConfigError(`${file}: Expected a JSON object but received ${JSON.stringify(config)}`);
    }
    return DDIMScheduler.fromConfig(config, file);
  }

  /** The timesteps of a trajectory, falling, as diffusers spaces them. */
  timesteps(numInferenceSteps: number): number[] {
    this.#checkSteps(numInferenceSteps);
    const { num_train_timesteps: trained, timestep_spacing: spacing, steps_offset: offset } = this.config;
    const indices = Array.from({ length: numInferenceSteps }, (_, i) => i);
    switch (spacing) {
      case "leading": {
        const ratio = Math.floor(trained / numInferenceSteps);
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
  step(options: DDIMStep): DDIMTransition {
    const { modelOutput, timestep, sample, numInferenceSteps, eta = 1, noise } = options;
    const batch = sample.size(0);
    const rows = this.#perRow(timestep, batch).map((t) => this.#coefficients(t, numInferenceSteps, eta));
    const column = (key: keyof Coefficients) =>
      columnOf(
        rows.map((row) => row[key]),
        sample,
      );
    const prediction = modelOutput.to({ dtype: "float32" });

    const { x0, epsilon } = this.#parts(prediction, sample, column("sqrtAlpha"), column("sqrtOneMinusAlpha"));
    const range = this.config.clip_sample_range;
    const predOriginalSample = this.config.clip_sample ? x0.clamp({ min: -range, max: range }) : x0;
    // Eq. 12: sqrt(a_prev) x_0 + sqrt(1 - a_prev - sigma^2) epsilon, plus sigma times noise.
    const mean = predOriginalSample.mul(column("sqrtAlphaPrev")).add(epsilon.mul(column("direction")));

    const sigma = rows.map((row) => row.sigma);
    const stochastic = sigma.some((value) => value > 0);
    const prevSample = (options.prevSample ?? draw(mean, column("sigma"), noise, stochastic)).detach();
    return { prevSample, mean, sigma, logProb: meanLogDensity(prevSample, mean, sigma), predOriginalSample };
  }

  /**
   * Diffuses clean latents: sqrt(alpha-bar) x_0 + sqrt(1 - alpha-bar) noise.
   *
   * @param timesteps one for each row
   */
  addNoise(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor {
    const { signal, spread } = this.#mixture(x0, timesteps);
    return x0.mul(signal).add(noise.mul(spread));
  }

  /** What a model of `prediction_type` is trained to say about `addNoise(x0, noise, timesteps)`. */
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

  /** x_0 and epsilon out of whatever it is that the model predicts. */
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
    // Where there is no noise to be had, a config may ask for the last step to land on x_0 itself.
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
    const alphas = this.#perRow(timesteps, x0.size(0)).map((t) => this.alphasCumprod[t]!);
    return {
      signal: columnOf(
        alphas.map((alpha) => sqrt(alpha)),
        x0,
      ),
      spread: columnOf(
        alphas.map((alpha) => sqrt(fround(1 - alpha))),
        x0,
      ),
    };
  }

  #perRow(timestep: number | readonly number[], batch: number): readonly number[] {
    const rows = typeof timestep === "number" ? Array<number>(batch).fill(timestep) : timestep;
    if (rows.length !== batch) {
      throw new RangeError(`Expected ${batch} timesteps for a batch of ${batch} but received ${rows.length}`);
    }
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

function draw(mean: Tensor, sigma: Tensor, noise: Tensor | undefined, stochastic: boolean): Tensor {
  if (!stochastic) return mean;
  if (noise === undefined) {
    throw new TypeError("Expected noise or prevSample for a step whose sigma is not 0 but received neither");
  }
  return mean.add(noise.mul(sigma));
}

/** log N(x; mean, sigma^2), mean over all dimensions but the first: [B] */
function meanLogDensity(x: Tensor, mean: Tensor, sigma: readonly number[]): Tensor {
  // A row without noise has no density: its variance counts as infinite and its constant as 0.
  const precision = sigma.map((s) => (s > 0 ? 1 / (2 * s * s) : 0));
  const constant = sigma.map((s) => (s > 0 ? -Math.log(s) - Math.log(2 * Math.PI) / 2 : 0));
  const distance = x.sub(mean).square().flatten(1).mean({ dim: 1 });
  const perRow = (values: readonly number[]) =>
    tensor(Float32Array.from(values), { shape: [values.length], device: x.device });
  return perRow(constant).sub(distance.mul(perRow(precision)));
}

/** One number a row, shaped to broadcast over the rest: [B, 1, 1, 1] */
function columnOf(values: readonly number[], like: Tensor): Tensor {
  const shape = like.shape.map((_, dim) => (dim === 0 ? values.length : 1));
  return tensor(Float32Array.from(values), { shape, device: like.device });
}

/** numpy's rounding. */
function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
