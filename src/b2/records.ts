/** The records that the phases of a stage pass on. Whoever creates a record owns its tensors until passing it on. */
import type { Tensor } from "../torch/index.js";

/** Identifies a trajectory: its root and branch within the stage, and its prompt. */
export interface SampleKey {
  readonly root: number;
  /** 0..K-1 */
  readonly branch: number;
  readonly prompt: string;
}

/** All branches of a stage, ordered by root, then by branch: n = roots x K, or in a tree roots x images of a root. */
export interface BranchBatch {
  readonly stage: number;
  readonly keys: readonly SampleKey[];
  /** The interval's timesteps, descending: the last s of the trajectory. */
  readonly timesteps: readonly number[];
  /**
   * float32 [n, k, ...latent] on the CPU. With transitions k = s + 1, from the split to the final latent; otherwise k =
   * 1, the final latent only. What images of a tree share is in the rows of each of them.
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
  /** In a tree: those of the nodes at each split inside the interval, level by level, see rollout/tree.ts. */
  readonly innerAdvantages?: readonly (readonly number[])[];
}

/** A part of a trajectory that trains by itself: an edge of a tree. */
export interface Edge {
  /** Its first step, an index into the timesteps of the train set. */
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  /** Number of the node that it leaves, among the stage's nodes there: siblings share it. */
  readonly parent: number;
}

/** What a row of a train set is. */
export interface TrainKey extends SampleKey {
  /** The part that trains. Missing: all timesteps of the train set, of a branch of its root. */
  readonly edge?: Edge;
  /** The stage that sampled it. Missing: the train set's own. An earlier one: the row is replayed. */
  readonly stage?: number;
}

/** The selected samples: m of the n branches, or in a tree m edges, each with the trajectory of an image below it. */
export interface TrainSet {
  readonly stage: number;
  readonly keys: readonly TrainKey[];
  /** The interval's timesteps without the last `interval.skipLast`. */
  readonly timesteps: readonly number[];
  /** float32 [m, k, ...latent]: k = s + 1 with transitions; otherwise k = 1, the final latents. */
  readonly latents: Tensor;
  /** float32 [m, s], only with transitions. */
  readonly logProbs?: Tensor | undefined;
  /** Before clipping and weighting, which the update does. */
  readonly advantages: readonly number[];
}

/** The part of a trajectory that a row trains, of so many timesteps in its train set. */
export const edgeOf = ({ edge, root }: TrainKey, steps: number): Edge => edge ?? { from: 0, to: steps, parent: root };

/** How many stages ago a row was sampled: 0 unless it is replayed. */
export const ageOf = ({ stage }: TrainKey, { stage: now }: Pick<TrainSet, "stage">): number => now - (stage ?? now);

/** The root in a row's random addresses: a replayed row's is that of no root of this stage. */
export const addressedRoot = (key: TrainKey, trainSet: Pick<TrainSet, "stage">): number =>
  key.root + ageOf(key, trainSet) * 2 ** 24;

/** Frees a record's tensors. */
export function disposeRecord({ latents, logProbs }: Pick<BranchBatch, "latents" | "logProbs">): void {
  latents.dispose();
  logProbs?.dispose();
}
