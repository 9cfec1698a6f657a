/**
 * The interface of an objective: which data of a stage it learns from, which samples form an item, and the loss of a
 * micro-batch. The trainer samples, keeps and computes only what the objective declares; the loss is a pure function of
 * tensors.
 */
import type { z } from "zod";
import { optionsOf, Registry, type Entry, type Named } from "../../base/registry.js";
import type { Scheduler } from "../../schedulers/index.js";
import type { Tensor } from "../../torch/index.js";
import type { TrainSet } from "../records.js";

/**
 * Which data of a sampled image an objective learns from. `transitions`: the recorded steps x_t -> x_{t-1} of the
 * trained interval with the log-probs they were sampled with. `final-latents`: only the clean latents of the images,
 * which are diffused again for training; no trajectory is kept.
 */
export type LearnsFrom = "transitions" | "final-latents";

/** What the trainer computes for an objective besides the predictions of the weights in training. */
export interface ObjectiveNeeds {
  /** Predictions of the model before any training. One more forward pass per pair. */
  readonly base?: boolean;
  /**
   * Predictions of the weights that sampled the stage. One more forward pass per pair, except in the optimiser step that
   * starts from these very weights.
   */
  readonly sampler?: boolean;
  /**
   * For objectives on final latents: d of the weights that sample, which after stage i become d old + (1 - d) new. null:
   * each stage samples with the weights that it starts from. Default: null.
   */
  readonly samplerDecay?: ((stage: number) => number) | null;
  /**
   * Whether predictions use classifier-free guidance as in sampling. Default: true for transitions, whose densities
   * come from the guided prediction; false for final latents, where only the conditional prediction is trained.
   */
  readonly guided?: boolean;
}

/** Which timesteps a clean latent is diffused to. */
export interface TimestepChoice {
  /** How many of each sample in an epoch; null: `train.timestepFraction` of the sampler's. */
  readonly count: number | null;
  /** `sampler`: those of the sampler, each at most once. `any`: evenly spread over all between its first and last. */
  readonly from: "sampler" | "any";
  /** Which part of the sampler's trajectory; null: the interval where roots have several branches. */
  readonly part: "interval" | "trajectory" | null;
  /** Bounds in the scheduler's own units; null: none. */
  readonly min: number | null;
  readonly max: number | null;
}

interface Predictions {
  /** The prediction of the weights in training, with gradient, [B, ...latent]. */
  readonly prediction: Tensor;
  /** The prediction before any training, without gradient; present if `needs.base`. */
  readonly basePrediction?: Tensor;
  /** The prediction of the weights that sampled, without gradient; present if `needs.sampler`. */
  readonly samplerPrediction?: Tensor;
  /** Advantages of the rows' samples, clipped and weighted, [B]. */
  readonly advantage: Tensor;
  /** What they were clipped to before weighting: `advantage.clip`. */
  readonly advantageClip: number;
  /** One per row. */
  readonly timesteps: readonly number[];
  readonly scheduler: Scheduler;
}

/** Recorded transitions, one per row. */
export interface TransitionBatch extends Predictions {
  /** log p(x_{t-1} | x_t) under the weights in training, mean over latent dimensions, with gradient, [B]. */
  readonly logProb: Tensor;
  /** The same under the weights that sampled, [B]. */
  readonly oldLogProb: Tensor;
  /** The same under the model before any training, [B]; present if `needs.base`. */
  readonly baseLogProb?: Tensor;
  /** Mean of p(x_{t-1} | x_t) under the weights in training, with gradient, [B, ...latent]. */
  readonly mean: Tensor;
  /** The same under the model before any training; present if `needs.base`. */
  readonly baseMean?: Tensor;
  /** Standard deviation of each row's transition. */
  readonly sigma: readonly number[];
}

/**
 * Clean latents diffused to a timestep, one per row: x_t = signal x_0 + noise e. Unless the objective chooses otherwise,
 * the timesteps are those of the trained interval: branches of a root share everything before it, so their rewards
 * differ because of the interval alone.
 */
export interface LatentBatch extends Predictions {
  /** x_0, [B, ...latent] */
  readonly original: Tensor;
  /** e, [B, ...latent] */
  readonly noise: Tensor;
  /** x_t, [B, ...latent] */
  readonly noisy: Tensor;
  /**
   * What a perfect model would predict for x_t: noise, v, x_0 or a velocity, depending on the scheduler. [B, ...latent]
   */
  readonly target: Tensor;
}

/** What a loss returns. */
export interface ObjectiveResult {
  /** The mean over rows, a scalar with gradient. */
  readonly loss: Tensor;
  /**
   * By name, one value per row or per item; docs/metrics.md explains the built-in ones. Of `ratio`, the likelihood
   * ratio of the weights in training to those that sampled, the trainer also reports the extremes.
   */
  readonly metrics: Readonly<Record<string, Float32Array | readonly number[]>>;
}

/** Rows of the train set that are trained together. In a micro-batch of n items their positions are n apart. */
export type Item = readonly number[];

interface Kind<Data extends LearnsFrom, Batch, O extends z.ZodObject> extends Entry<O> {
  readonly learnsFrom: Data;
  /** What it needs with these options. Default: nothing. */
  needs?(options: z.output<O>): ObjectiveNeeds;
  /** Checks a config: one sentence for each reason why this objective cannot train with it. */
  conflicts?(config: ObjectiveSetting, options: z.output<O>): string[];
  /**
   * Groups samples into items, best first. In a micro-batch of n items the first n rows are the items' first members,
   * the next n their second ones. Default: each sample is an item.
   */
  items?(trainSet: Pick<TrainSet, "keys" | "advantages">): Item[];
  /** Samples per item. Default 1. */
  readonly itemSize?: number;
  /** @param options parsed by the entry's own schema */
  loss(batch: Batch, options: z.output<O>): ObjectiveResult;
}

/** The parts of a config that an objective can check. */
export interface ObjectiveSetting {
  readonly branch: { readonly count: number };
  readonly select: { readonly mode: string };
  readonly train: { readonly timestepFraction: number; readonly stepWeights: string };
}

/** An objective as `registerObjective` takes it. */
export type ObjectiveKind<O extends z.ZodObject = z.ZodObject> =
  Kind<"transitions", TransitionBatch, O> | LatentKind<O>;

interface LatentKind<O extends z.ZodObject> extends Kind<"final-latents", LatentBatch, O> {
  /** Default: those of the trained interval, as the sampler takes them. */
  timesteps?(options: z.output<O>): TimestepChoice;
}

/** Types an objective's functions by its own options schema. */
export const defineObjective = <O extends z.ZodObject>(kind: ObjectiveKind<O>): ObjectiveKind => kind;

/** All registered objectives; a config names one. */
export const objectives = new Registry<ObjectiveKind>("objective");

/** What the objective of a config needs. @throws InputError for an unknown name */
export function needsOf(named: Named): Required<ObjectiveNeeds> {
  const kind = objectives.get(named.name);
  const byDefault = { base: false, sampler: false, samplerDecay: null, guided: kind.learnsFrom === "transitions" };
  return { ...byDefault, ...kind.needs?.(optionsOf(kind, named)) };
}

/** The timesteps that the objective of a config chooses; undefined: those of the trained interval. */
export function timestepChoiceOf(named: Named): TimestepChoice | undefined {
  const kind = objectives.get(named.name);
  return kind.learnsFrom === "final-latents" ? kind.timesteps?.(optionsOf(kind, named)) : undefined;
}
