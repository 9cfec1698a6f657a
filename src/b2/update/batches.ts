/**
 * Builds the input of an objective for a micro-batch: recorded transitions with their log-probs, or clean latents
 * diffused again; and the predictions it needs. Records stay on the CPU; the rows of a micro-batch move to the device
 * in one copy.
 */
import { optionsOf, type Named } from "../../base/registry.js";
import type { Conditioning } from "../../pipeline/index.js";
import { cat, tensor, tidy, type Tensor } from "../../torch/index.js";
import type {
  LatentBatch,
  ObjectiveKind,
  ObjectiveNeeds,
  ObjectiveResult,
  TransitionBatch,
} from "../objectives/index.js";
import type { Policy } from "../policy/policy.js";
import type { WeightCopy } from "../policy/trainable.js";
import type { TrainSet } from "../records.js";
import { gaussian } from "../rollout/denoise.js";
import { rowsOf, type MicroBatch, type Row } from "./plan.js";
import type { StepWeight } from "./step-weights.js";

/** What all micro-batches of a stage share. */
export interface StageData {
  readonly policy: Policy;
  readonly trainSet: TrainSet;
  readonly seed: number;
  /** One per sample of the train set, clipped and weighted. */
  readonly advantages: readonly number[];
  /** What they were clipped to. */
  readonly advantageClip: number;
  readonly objective: ObjectiveKind;
  readonly needs: Required<ObjectiveNeeds>;
  readonly options: Named;
  /** The log-probs that rows were sampled with; only for objectives on transitions. */
  readonly oldLogProbs?: ((pairs: MicroBatch) => Float32Array) | undefined;
  /** Factor of a row's advantage, by its step; undefined where all steps count the same. */
  readonly stepWeight?: StepWeight | undefined;
  /** The weights that sampled the stage; undefined as long as they are those in training. */
  readonly sampler?: WeightCopy | undefined;
}

/** The loss of a micro-batch, with gradient, and its metrics. Call it within tidy, which frees the intermediates. */
export function lossOf(data: StageData, pairs: MicroBatch): ObjectiveResult {
  const { objective, options } = data;
  const own = optionsOf(objective, options);
  return objective.learnsFrom === "transitions"
    ? objective.loss(transitions(data, pairs), own)
    : objective.loss(latents(data, pairs), own);
}

/** The log-probs of recorded transitions under the current policy, [B], on its device. */
export function logProbOf(data: Pick<StageData, "policy" | "trainSet" | "needs">, rows: readonly Row[]): Tensor {
  return recorded(data, rows).logProb;
}

function transitions(data: StageData, pairs: MicroBatch): TransitionBatch {
  const rows = rowsOf(pairs);
  const others = otherPredictions(data, rows, () => statesAt(data, rows, 0));
  const { prediction, logProb, sigma } = recorded(data, rows);
  return {
    ...commonOf(data, rows),
    ...predictionsOf(data, prediction, others),
    logProb,
    sigma,
    oldLogProb: tensor(data.oldLogProbs!(pairs)).to({ device: logProb.device }),
  };
}

function recorded(
  data: Pick<StageData, "policy" | "trainSet" | "needs">,
  rows: readonly Row[],
): { prediction: Tensor; logProb: Tensor; sigma: readonly number[] } {
  const { policy } = data;
  const x = statesAt(data, rows, 0);
  const timesteps = rows.map(({ timestep }) => timestep);
  const prediction = policy.predict(x, timesteps, conditioningOf(data, rows));
  const { logProb, sigma } = policy.transition(x, timesteps, prediction, { prevSample: statesAt(data, rows, 1) });
  return { prediction, logProb, sigma };
}

function latents(data: StageData, pairs: MicroBatch): LatentBatch {
  const rows = rowsOf(pairs);
  const { policy, trainSet, seed } = data;
  const { scheduler } = policy.model;
  const timesteps = rows.map(({ timestep }) => timestep);
  const final = trainSet.latents.size(1) - 1;
  const original = recordedStates(data, rows, () => final);
  const noise = noiseOf(rows, { seed, trainSet, policy });
  const noisy = scheduler.addNoise(original, noise, timesteps);
  const others = otherPredictions(data, rows, () => noisy);
  const prediction = policy.predict(noisy, timesteps, conditioningOf(data, rows));
  const target = scheduler.target(original, noise, timesteps);
  return { ...commonOf(data, rows), ...predictionsOf(data, prediction, others), original, noise, noisy, target };
}

function commonOf(
  data: StageData,
  rows: readonly Row[],
): Pick<LatentBatch, "advantage" | "advantageClip" | "timesteps" | "scheduler"> {
  return {
    advantage: advantagesOf(data, rows),
    advantageClip: data.advantageClip,
    timesteps: rows.map(({ timestep }) => timestep),
    scheduler: data.policy.model.scheduler,
  };
}

/** Fresh noise for every draw of every sample, independent of batching. */
function noiseOf(
  rows: readonly Row[],
  { seed, trainSet: { stage, keys }, policy }: Pick<StageData, "seed" | "trainSet" | "policy">,
): Tensor {
  const size = policy.latentShape;
  return tidy(() => {
    const parts = rows.map(({ row, draw }) => {
      const { root, branch } = keys[row]!;
      const key = { seed, stream: "train-noise", stage, root, branch: branch + 1 } as const;
      return gaussian([key], draw, size);
    });
    return cat(parts).to({ device: policy.device });
  });
}

type OtherPredictions = Pick<TransitionBatch, "basePrediction" | "samplerPrediction">;

/**
 * Predictions of the base or the sampling weights. They come before those of the weights in training: weights are
 * swapped in place, which would invalidate a graph that awaits its backward pass.
 */
function otherPredictions(data: StageData, rows: readonly Row[], states: () => Tensor): OtherPredictions {
  const { policy, sampler, needs } = data;
  const timesteps = rows.map(({ timestep }) => timestep);
  const predict = (): Tensor => tidy(() => policy.predict(states(), timesteps, conditioningOf(data, rows)));
  return {
    ...(needs.base && { basePrediction: policy.trainable!.withBase(predict) }),
    ...(needs.sampler && sampler !== undefined && { samplerPrediction: sampler.use(predict) }),
  };
}

/** All predictions: where the weights in training have sampled, theirs is the sampler's too. */
function predictionsOf(
  { needs, sampler }: StageData,
  prediction: Tensor,
  others: OtherPredictions,
): OtherPredictions & Pick<TransitionBatch, "prediction"> {
  const isSampler = needs.sampler && sampler === undefined;
  return { ...others, prediction, ...(isSampler && { samplerPrediction: prediction.detach() }) };
}

function conditioningOf(
  { policy, trainSet, needs: { guided } }: Pick<StageData, "policy" | "trainSet" | "needs">,
  rows: readonly Row[],
): Conditioning {
  const prompts = rows.map(({ row }) => trainSet.keys[row]!.prompt);
  return policy.conditioning(prompts, { guided });
}

/** The latents of each row's transition: x_t for offset 0, x_{t-1} for 1. On the policy's device. */
const statesAt = (data: Pick<StageData, "policy" | "trainSet">, rows: readonly Row[], offset: 0 | 1): Tensor =>
  recordedStates(data, rows, ({ step }) => step + offset);

function recordedStates(
  { policy, trainSet: { latents } }: Pick<StageData, "policy" | "trainSet">,
  rows: readonly Row[],
  stateOf: (row: Row) => number,
): Tensor {
  const states = latents.size(1);
  const flat = latents.flatten(0, 1); // [m * k, ...latent]
  const index = BigInt64Array.from(rows, (row) => BigInt(row.row * states + stateOf(row)));
  return flat.indexSelect(0, tensor(index)).to({ device: policy.device });
}

function advantagesOf({ policy, advantages, stepWeight }: StageData, rows: readonly Row[]): Tensor {
  return tensor(
    Float32Array.from(rows, (row) => advantages[row.row]! * (stepWeight?.(row) ?? 1)),
    { device: policy.device },
  );
}
