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
  /**
   * float32 [n, k, ...latent] on the CPU: with transitions k = s + 1, from the split to the final latent; else the final
   * one alone, k = 1.
   */
  readonly latents: Tensor;
  /** float32 [n, s]: of each transition, the mean over latent dimensions. Undefined where transitions are not recorded. */
  readonly logProbs?: Tensor | undefined;
}

/** A BranchBatch with what its images are worth. */
export interface ScoredBatch extends BranchBatch {
  /** The weighted sum that is maximised, one an image. */
  readonly rewards: readonly number[];
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds. */
  readonly rewardSeconds: Readonly<Record<string, number>>;
  readonly advantages: readonly number[];
}

/** The samples that train: m of the n branches. */
export interface TrainSet {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** Those of the interval without its last interval.skipLast. */
  readonly timesteps: readonly number[];
  /** float32 [m, k, ...latent]: k = s + 1 with transitions, else 1, the final latents. */
  readonly latents: Tensor;
  /** float32 [m, s], with transitions. */
  readonly logProbs?: Tensor | undefined;
  /** As normalised; the update clips and weights them. */
  readonly advantages: readonly number[];
}

/** Frees a record's tensors. */
export function disposeRecord({ latents, logProbs }: Pick<BranchBatch, "latents" | "logProbs">): void {
  latents.dispose();
  logProbs?.dispose();
}
