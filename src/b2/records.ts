/** What the phases of a stage hand to each other. Whoever makes a record owns its tensors until it hands it over. */
import type { Tensor } from "../torch/index.js";

/** Which trajectory: its place in the stage and its prompt. */
export interface SampleKey {
  readonly root: number;
  /** 0..K-1 */
  readonly branch: number;
  readonly prompt: string;
}

/** All branches of a stage, root after root, the branches of a root side by side: n = roots x K. */
export interface BranchBatch {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** The interval's timesteps, falling: the last s of the trajectory. */
  readonly timesteps: readonly number[];
  /** float32 [n, s + 1, C, h, w]: from the split to the final latent. */
  readonly latents: Tensor;
  /** float32 [n, s]: of each transition, the mean over latent dimensions. */
  readonly logProbs: Tensor;
}

/** A BranchBatch with what its images are worth. */
export interface ScoredBatch extends BranchBatch {
  readonly rewards: readonly number[];
  readonly advantages: readonly number[];
}

/** The samples that train: m of the n branches. */
export interface TrainSet {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** Those of the interval without its last interval.skipLast. */
  readonly timesteps: readonly number[];
  /** float32 [m, s + 1, C, h, w] */
  readonly latents: Tensor;
  /** float32 [m, s] */
  readonly logProbs: Tensor;
  /** as normalised; clipping and weights are the update's */
  readonly advantages: readonly number[];
}

/** Gives back the memory of a record's tensors. */
export function disposeRecord(record: { readonly latents: Tensor; readonly logProbs: Tensor }): void {
  record.latents.dispose();
  record.logProbs.dispose();
}
