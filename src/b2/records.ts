/** The records that the phases of a stage pass on. Whoever creates a record owns its tensors until passing it on. */
import type { Tensor } from "../torch/index.js";

/** Identifies a trajectory: its root and branch within the stage, and its prompt. */
export interface SampleKey {
  readonly root: number;
  /** 0..K-1 */
  readonly branch: number;
  readonly prompt: string;
}

/** All branches of a stage, ordered by root, then by branch: n = roots x K. */
export interface BranchBatch {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** The interval's timesteps, descending: the last s of the trajectory. */
  readonly timesteps: readonly number[];
  /**
   * float32 [n, k, ...latent] on the CPU. With transitions k = s + 1, from the split to the final latent; otherwise k =
   * 1, the final latent only.
   */
  readonly latents: Tensor;
  /** float32 [n, s]: log-prob of each transition, mean over latent dimensions. Undefined if none are recorded. */
  readonly logProbs?: Tensor | undefined;
}

/** A BranchBatch with the rewards and advantages of its images. */
export interface ScoredBatch extends BranchBatch {
  /** The weighted sum that is maximised, one per image. */
  readonly rewards: readonly number[];
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds. */
  readonly rewardSeconds: Readonly<Record<string, number>>;
  /** One per image. */
  readonly advantages: readonly number[];
}

/** The selected samples: m of the n branches. */
export interface TrainSet {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** The interval's timesteps without the last `interval.skipLast`. */
  readonly timesteps: readonly number[];
  /** float32 [m, k, ...latent]: k = s + 1 with transitions; otherwise k = 1, the final latents. */
  readonly latents: Tensor;
  /** float32 [m, s], only with transitions. */
  readonly logProbs?: Tensor | undefined;
  /** Before clipping and weighting, which the update does. */
  readonly advantages: readonly number[];
}

/** Frees a record's tensors. */
export function disposeRecord({ latents, logProbs }: Pick<BranchBatch, "latents" | "logProbs">): void {
  latents.dispose();
  logProbs?.dispose();
}
