/**
 * A scheduler: the noise schedule of a model and the stochastic policy that denoises with it. Each transition
 * x_t -> x_{t-1} is drawn from a normal distribution whose log-density policy-gradient training needs.
 *
 * Timesteps are diffusers': whole numbers for DDPM's kind of model, numbers up to num_train_timesteps for flow matching.
 */
import type { z } from "zod";
import type { JsonObject } from "../base/files.js";
import { optionsOf, Registry, type Entry, type Named } from "../base/registry.js";
import type { Tensor } from "../torch/index.js";

/** What a transition starts from. One of `noise` and `prevSample` is needed where the step is not deterministic. */
export interface SchedulerStep {
  /** The model's prediction, [B, ...latent]; converted to float32. */
  readonly modelOutput: Tensor;
  /** Of the whole batch, or one for each row. */
  readonly timestep: number | readonly number[];
  /** x_t, float32 [B, ...latent], on the device that the transition is computed on */
  readonly sample: Tensor;
  /** Steps of the whole trajectory: how far the next timestep is away. */
  readonly numInferenceSteps: number;
  /** Standard normal, [B, ...latent]: draws x_{t-1} from it. */
  readonly noise?: Tensor;
  /** An x_{t-1} that was drawn before: asks only for its log-probability. */
  readonly prevSample?: Tensor;
}

export interface Transition {
  /** x_{t-1}, float32 [B, ...latent], without gradient */
  readonly prevSample: Tensor;
  /** of the distribution that x_{t-1} is drawn from, [B, ...latent] */
  readonly mean: Tensor;
  /** its standard deviation, row by row */
  readonly sigma: readonly number[];
  /** log-density of x_{t-1}, mean over the latent's dimensions, [B]; 0 where sigma is 0 and there is no density */
  readonly logProb: Tensor;
  /** x_0 as predicted at this step, [B, ...latent] */
  readonly predOriginalSample: Tensor;
}

export interface Scheduler {
  /** As it is kept in scheduler_config.json, `_class_name` included. */
  toConfig(): JsonObject;
  /** Timesteps lie in 0..numTrainTimesteps. */
  readonly numTrainTimesteps: number;
  /** The most steps that a trajectory can have. */
  readonly maxInferenceSteps: number;
  /** The timesteps of a trajectory, falling. @throws RangeError for a number of steps outside 1..maxInferenceSteps */
  timesteps(numInferenceSteps: number): number[];
  /** One transition x_t -> x_{t-1}, drawn from noise or given, with its log-probability. */
  step(options: SchedulerStep): Transition;
  /**
   * The marginal of a timestep: x_t = signal x_0 + noise e, e standard normal. sqrt(alpha-bar) and sqrt(1 - alpha-bar) for
   * DDPM's kind; 1 - sigma and sigma for flow matching.
   */
  marginal(timestep: number): { readonly signal: number; readonly noise: number };
  /** Diffuses clean latents to timesteps, one for each row: signal x_0 + noise e. */
  addNoise(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor;
  /** What the model is trained to predict about `addNoise(x0, noise, timesteps)`: noise, v, x_0, a velocity. */
  target(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor;
  /** x_0 out of what the model predicts for `sample` at these timesteps, one for each row; unclipped. */
  originalSample(modelOutput: Tensor, sample: Tensor, timesteps: readonly number[]): Tensor;
}

/** A kind of scheduler, as `registerScheduler` takes it. */
export interface SchedulerKind<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** Passes of the model that one step takes; 1 unless said otherwise. For estimates. */
  readonly passesPerStep?: number;
  /**
   * Makes the scheduler of a model.
   *
   * @param config the model's scheduler_config.json, of whatever sampler it names
   * @param options the run's, as the entry's own schema gave them
   * @param source what to name in errors: a file
   * @throws InputError with a sentence for every key of the config that it cannot honour
   */
  open(config: JsonObject, options: z.output<O>, source: string): Scheduler;
}

/** A scheduler whose functions take what its own schema gives. */
export const defineScheduler = <O extends z.ZodObject>(kind: SchedulerKind<O>): SchedulerKind => kind;

/** Every kind of scheduler; a config names one. */
export const schedulers = new Registry<SchedulerKind>("scheduler");

/** Makes the scheduler that a config names, for a model. @throws InputError, see SchedulerKind.open */
export function openScheduler(named: Named, config: JsonObject, source: string): Scheduler {
  const kind = schedulers.get(named.name);
  return kind.open(config, optionsOf(kind, named), source);
}
