/** The metrics in a run folder; docs/metrics.md has a line for each. */
import type { Cost } from "./cost.js";

/** One optimiser step: a line of updates.jsonl. */
export interface UpdateMetrics {
  /** Its number within the stage, from 0. */
  readonly update: number;
  readonly pairs: number;
  readonly loss: number;
  /** Extremes of the likelihood ratio; null for objectives without one. */
  readonly ratioMin: number | null;
  readonly ratioMax: number | null;
  readonly gradNorm: number;
  readonly lossScale: number;
  /** 1 if the loss or the gradient was not finite and the step was skipped. */
  readonly skipped: 0 | 1;
  /** In a skipped step: what was at fault. Missing where float16's loss scale was too large, which is no fault. */
  readonly notFinite?: readonly NotFinitePair[];
  /** The objective's own metrics, means over pairs. */
  readonly objective: Readonly<Record<string, number>>;
}

/** A sample at a timestep whose loss or gradient is NaN or infinite. */
export interface NotFinitePair {
  readonly part: "loss" | "gradient";
  /** The stage that sampled it: an earlier one for a row that is replayed. */
  readonly stage: number;
  readonly root: number;
  readonly branch: number;
  readonly prompt: string;
  readonly timestep: number;
}

/** One finished stage: stage.json, and a line of metrics.jsonl. null where there is nothing to measure. */
export interface StageMetrics {
  readonly stage: number;
  readonly trainedSteps: number;
  readonly images: number;
  readonly rewardMean: number;
  readonly rewardStd: number;
  readonly rewardBranchStd: number;
  /** Prompts with several images, and those of them whose images all have the same reward; null in older runs. */
  readonly promptGroups: number | null;
  readonly flatGroups: number | null;
  /** By label: the unweighted mean, the deviation between images (missing in older runs), and the seconds of scoring. */
  readonly rewards: Readonly<
    Record<string, { readonly mean: number; readonly std?: number; readonly seconds: number }>
  >;
  readonly selected: number;
  readonly positives: number;
  readonly negatives: number;
  readonly updates: number;
  readonly pairs: number;
  readonly firstRatioMin: number | null;
  readonly firstRatioMax: number | null;
  readonly ratioMin: number | null;
  readonly ratioMax: number | null;
  readonly loss: number | null;
  readonly gradNorm: number | null;
  readonly lossScale: number | null;
  readonly skipped: number | null;
  /** Optimiser steps that were skipped for another reason than float16's loss scale; null in older runs. */
  readonly notFiniteSteps: number | null;
  /** Roots that were left out because their latents were NaN or infinite; null in older runs. */
  readonly notFiniteRoots: number | null;
  /** The sizes of batches that were halved because the device ran out of memory, by the config's key. */
  readonly halvedBatches: Readonly<Record<string, number>>;
  /** Of the weights' moving average from them; null without one. */
  readonly emaDistance: number | null;
  /** The objective's own metrics, means over pairs. */
  readonly objective: Readonly<Record<string, number | null>>;
  readonly secondsSample: number;
  readonly secondsScore: number;
  readonly secondsTrain: number;
  /** All that the training has cost so far, this stage included; null in a run that an earlier version began. */
  readonly cost: Cost | null;
  readonly imagesPerSecond: number | null;
  readonly pairsPerSecond: number | null;
  readonly liveTensors: number;
  readonly residentMegabytes: number;
  /** null on the CPU, and where libtorch does not count. */
  readonly deviceMegabytes: number | null;
}

/** Wall time of a stage's phases, and of each reward within scoring, in seconds. */
export interface PhaseSeconds {
  readonly sample: number;
  readonly score: number;
  readonly train: number;
  readonly rewards: Readonly<Record<string, number>>;
}

/** What the phases of an unfinished stage have taken so far, failed attempts at scoring included: partial.json. */
export interface PartialStage extends PhaseSeconds {
  /** Of each phase, so that a phase that is repeated replaces its own. */
  readonly costs: Readonly<Partial<Record<"sample" | "score", Cost>>>;
}

/** What rewards have said of the first images of a stage that is not finished: scores.json. */
export interface StageScores {
  /** Each reward by its label, unweighted; equally many of each. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds. */
  readonly rewardSeconds: Readonly<Record<string, number>>;
}

/** What a probe of the policy says about the interval to train: intervals/<stage>.json. */
export interface IntervalMeasurement {
  /** It was measured before this stage. */
  readonly stage: number;
  /** Lengths of the interval that it proposes, in steps. */
  readonly first: number;
  readonly last: number;
  /** What the last steps decide of the reward's variance inside a prompt, with 95% intervals; null if it does not vary. */
  readonly shares: readonly {
    readonly steps: number;
    readonly share: number | null;
    readonly low: number | null;
    readonly high: number | null;
  }[];
  /** Part of the cost of its stage. */
  readonly cost: Cost;
}

/** One image of a stage: a line of samples.jsonl. */
export interface SampleLine {
  readonly root: number;
  readonly branch: number;
  readonly prompt: string;
  /** The weighted sum that is maximised. */
  readonly reward: number;
  /** Each reward by its label, unweighted; missing for a single reward of weight 1. */
  readonly rewards?: Readonly<Record<string, number>>;
  readonly advantage: number;
  readonly selected: boolean;
  /** Path within the stage's folder, if the image was kept. */
  readonly image?: string;
}
