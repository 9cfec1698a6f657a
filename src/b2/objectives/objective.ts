/**
 * What an objective is: which data of a stage it learns from, what trains as one, and a loss over a micro-batch. The
 * trainer samples, keeps and computes what the objective says it needs, and nothing else; the loss is a pure function of
 * tensors.
 */
import type { z } from "zod";
import { Registry, type Entry } from "../../base/registry.js";
import type { Scheduler } from "../../schedulers/index.js";
import type { Tensor } from "../../torch/index.js";
import type { TrainSet } from "../records.js";

/**
 * What of a sampled image an objective learns from. `transitions`: the recorded steps x_t -> x_{t-1} of the trained interval
 * with the log-probs they were sampled with. `final-latents`: the clean latents of the images alone, which are diffused
 * anew for training; no trajectory is kept.
 */
export type LearnsFrom = "transitions" | "final-latents";

/** What the trainer computes for an objective beside the predictions of the learning weights. */
export interface ObjectiveNeeds {
  /** Predictions of the model as it was before any training. One more forward pass a pair. */
  readonly base?: boolean;
  /** Predictions of the weights that sampled the stage. One more forward pass a pair. */
  readonly sampler?: boolean;
  /**
   * Whether predictions are guided as in sampling. Default: for transitions, whose densities are those of the guided
   * prediction; not for final latents, where the conditional prediction alone is trained.
   */
  readonly guided?: boolean;
}

interface Predictions {
  /** Of the learning weights, with gradient, [B, ...latent]. */
  readonly prediction: Tensor;
  /** Where `needs.base`, without gradient. */
  readonly basePrediction?: Tensor;
  /** Where `needs.sampler`, without gradient. */
  readonly samplerPrediction?: Tensor;
  /** Of the samples that the rows belong to, clipped and weighted, [B]. */
  readonly advantage: Tensor;
  /** One a row. */
  readonly timesteps: readonly number[];
  readonly scheduler: Scheduler;
}

/** Recorded transitions, a row each. */
export interface TransitionBatch extends Predictions {
  /** log p(x_{t-1} | x_t) of the learning weights, mean over latent dimensions, with gradient, [B]. */
  readonly logProb: Tensor;
  /** The same of the weights that sampled, [B]. */
  readonly oldLogProb: Tensor;
  /** Standard deviation of each row's transition. */
  readonly sigma: readonly number[];
}

/**
 * Clean latents diffused to a timestep, a row each: x_t = signal x_0 + noise e. The timesteps are those of the trained
 * interval: siblings share what came before it, so that the difference of their rewards is about the interval alone.
 */
export interface LatentBatch extends Predictions {
  /** x_0, [B, ...latent] */
  readonly original: Tensor;
  /** e, [B, ...latent] */
  readonly noise: Tensor;
  /** x_t, [B, ...latent] */
  readonly noisy: Tensor;
  /** What a perfect model would predict for x_t: noise, v, x_0 or a velocity, as the scheduler has it. [B, ...latent] */
  readonly target: Tensor;
}

export interface ObjectiveResult {
  /** The mean over rows, a scalar with gradient. */
  readonly loss: Tensor;
  /**
   * One value a row (or a value for several rows that train as one), by name; docs/metrics.md explains ours. `ratio`, the
   * likelihood ratio of the learning and the sampling weights, is what the trainer reports extremes of.
   */
  readonly metrics: Readonly<Record<string, Float32Array | readonly number[]>>;
}

/** What trains as one: rows of the train set, whose places in a micro-batch are apart by its number of items. */
export type Item = readonly number[];

interface Kind<Data extends LearnsFrom, Batch, O extends z.ZodObject> extends Entry<O> {
  readonly learnsFrom: Data;
  readonly needs?: ObjectiveNeeds;
  /** What must hold of a config for this objective: a sentence for each reason that it cannot train. */
  conflicts?(config: ObjectiveSetting): string[];
  /**
   * What trains as one, best first. In a micro-batch of n items the first n rows are the items' first members, the next n
   * their second ones. Default: each sample alone.
   */
  items?(trainSet: Pick<TrainSet, "keys" | "advantages">): Item[];
  /** Samples in an item. Default 1. */
  readonly itemSize?: number;
  /** @param options as the entry's own schema gave them */
  loss(batch: Batch, options: z.output<O>): ObjectiveResult;
}

/** The parts of a config that an objective can have conditions on. */
export interface ObjectiveSetting {
  readonly branch: { readonly count: number };
  readonly select: { readonly mode: string };
}

/** A kind of objective, as `registerObjective` takes it. */
export type ObjectiveKind<O extends z.ZodObject = z.ZodObject> =
  Kind<"transitions", TransitionBatch, O> | Kind<"final-latents", LatentBatch, O>;

/** An objective whose functions take what its own schema gives. */
export const defineObjective = <O extends z.ZodObject>(kind: ObjectiveKind<O>): ObjectiveKind => kind;

/** Every kind of objective; a config names one. */
export const objectives = new Registry<ObjectiveKind>("objective");
