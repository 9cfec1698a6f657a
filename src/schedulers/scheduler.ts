/**
 * The interface of a scheduler: the noise schedule of a model, and the stochastic policy that denoises with it. Each
 * transition x_t -> x_{t-1} is drawn from a normal distribution, whose log-density policy-gradient training needs.
 *
 * Timesteps are those of diffusers: integers for DDPM-like models, reals up to num_train_timesteps for flow matching.
 */
import type { z } from "zod";
import type { JsonObject } from "../base/files.js";
import { optionsOf, Registry, type Entry, type Named } from "../base/registry.js";
import type { Tensor } from "../torch/index.js";

/** Input of a transition. Unless the step is deterministic, it needs `noise` or `prevSample`. */
export interface SchedulerStep {
  /** The model's prediction, [B, ...latent]; converted to float32. */
  readonly modelOutput: Tensor;
  /** One for the whole batch, or one per row. */
  readonly timestep: number | readonly number[];
  /** x_t, float32 [B, ...latent], on the device that the transition is computed on */
  readonly sample: Tensor;
  /** Steps of the whole trajectory, which determine the next timestep. */
  readonly numInferenceSteps: number;
  /** Standard normal noise to draw x_{t-1} with, [B, ...latent]. */
  readonly noise?: Tensor;
  /** An x_{t-1} drawn earlier, of which only the log-probability is computed. */
  readonly prevSample?: Tensor;
  /** Takes the step without noise: sigma is 0. Only for kinds with `deterministicSteps`. */
  readonly deterministic?: boolean;
}

/** A transition x_t -> x_{t-1}. */
export interface Transition {
  /** x_{t-1}, float32 [B, ...latent], without gradient */
  readonly prevSample: Tensor;
  /** mean of the distribution of x_{t-1}, [B, ...latent] */
  readonly mean: Tensor;
  /** its standard deviation, row by row */
  readonly sigma: readonly number[];
  /** log-density of x_{t-1}, mean over the latent's dimensions, [B]; 0 where sigma is 0 and there is no density */
  readonly logProb: Tensor;
  /** x_0 as predicted at this step, [B, ...latent] */
  readonly predOriginalSample: Tensor;
}

/** What a model family decides about its schedule: what diffusers' pipelines hand to `set_timesteps`. */
export interface FamilySchedule {
  /** The share of noise before each step, descending from 1, before any shift. Default: the scheduler's own spacing. */
  sigmas?(numInferenceSteps: number): readonly number[];
  /** The logarithm of the shift, for configs with `use_dynamic_shifting`, in which it depends on the image's size. */
  mu?(numInferenceSteps: number): number;
}

/** A scheduler of a model, see the top of this file. */
export interface Scheduler {
  /** The contents of scheduler_config.json, including `_class_name`. */
  toConfig(): JsonObject;
  /** Timesteps lie in 0..numTrainTimesteps. */
  readonly numTrainTimesteps: number;
  /** The maximum number of steps of a trajectory. */
  readonly maxInferenceSteps: number;
  /**
   * The timesteps of a trajectory, descending.
   *
   * @throws RangeError for a number of steps outside 1..maxInferenceSteps, and others that it has no timesteps for
   */
  timesteps(numInferenceSteps: number): number[];
  /** One transition x_t -> x_{t-1}, drawn from noise or given, with its log-probability. */
  step(options: SchedulerStep): Transition;
  /**
   * The marginal of a timestep: x_t = signal x_0 + noise e, e standard normal. sqrt(alpha-bar) and sqrt(1 - alpha-bar)
   * for DDPM-like models; 1 - sigma and sigma for flow matching.
   */
  marginal(timestep: number): { readonly signal: number; readonly noise: number };
  /** Diffuses clean latents to timesteps, one for each row: signal x_0 + noise e. */
  addNoise(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor;
  /** What the model is trained to predict about `addNoise(x0, noise, timesteps)`: noise, v, x_0, a velocity. */
  target(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor;
  /** x_0 from the model's prediction for `sample` at these timesteps, one per row; not clipped. */
  originalSample(modelOutput: Tensor, sample: Tensor, timesteps: readonly number[]): Tensor;
}

/** A kind of scheduler as `registerScheduler` takes it. */
export interface SchedulerKind<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** Model predictions per step. Default 1. For estimates. */
  readonly passesPerStep?: number;
  /** Whether single steps can be taken without noise, see SchedulerStep.deterministic. Default false. */
  readonly deterministicSteps?: boolean;
  /** Whether it samples without noise, so that there are no log-probs. Default: never. */
  isDeterministic?(options: z.output<O>): boolean;
  /**
   * How many last steps of a trajectory draw no noise, so that they have no log-prob, or so little that their log-probs
   * are many times as sensitive as the others'. Default 0.
   */
  quietSteps?(options: z.output<O>): number;
  /**
   * Makes the scheduler of a model.
   *
   * @param config the model's scheduler_config.json, which may name another sampler
   * @param options from the run's config, parsed by the entry's own schema
   * @param source the file to name in errors
   * @param schedule of the model's family, for samplers of flow matching
   * @throws InputError with a sentence for every key of the config that is not supported
   */
  open(config: JsonObject, options: z.output<O>, source: string, schedule?: FamilySchedule): Scheduler;
}

/** Types a scheduler's functions by its own options schema. */
export const defineScheduler = <O extends z.ZodObject>(kind: SchedulerKind<O>): SchedulerKind => kind;

/** All registered schedulers; a config names one. */
export const schedulers = new Registry<SchedulerKind>("scheduler");

/**
 * Makes the scheduler that a run's config names, from the model's scheduler config.
 *
 * @throws InputError, see SchedulerKind.open
 */
export function openScheduler(
  named: Named,
  config: JsonObject,
  source: string,
  schedule: FamilySchedule = {},
): Scheduler {
  const kind = schedulers.get(named.name);
  return kind.open(config, optionsOf(kind, named), source, schedule);
}
