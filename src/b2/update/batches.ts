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
import type { WeightCopy } from "../policy/weight-copy.js";
import { addressedRoot, type TrainSet } from "../records.js";
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
  const states = recordedPair(data, rows);
  return transitionOf(data, rows, states, predict(data, rows, states.x)).logProb;
}

function transitions(data: StageData, pairs: MicroBatch): TransitionBatch {
  const rows = rowsOf(pairs);
  const states = recordedPair(data, rows);
  const others = otherPredictions(data, rows, states.x);
  const base = others.basePrediction && transitionOf(data, rows, states, others.basePrediction);
  const prediction = predict(data, rows, states.x);
  const { logProb, mean, sigma } = transitionOf(data, rows, states, prediction);
  return {
    ...commonOf(data, rows),
    ...predictionsOf(data, prediction, others),
    ...(base && { baseLogProb: base.logProb, baseMean: base.mean }),
    logProb,
    mean,
    sigma,
    oldLogProb: tensor(data.oldLogProbs!(pairs)).to({ device: logProb.device }),
  };
}

/** The latents of each row's transition, on the policy's device. */
interface RecordedPair {
  /** x_t, [B, ...latent] */
  readonly x: Tensor;
  /** x_{t-1} */
  readonly prevSample: Tensor;
}

function transitionOf(
  { policy }: Pick<StageData, "policy">,
  rows: readonly Row[],
  { x, prevSample }: RecordedPair,
  prediction: Tensor,
): ReturnType<Policy["transition"]> {
  return policy.transition(x, timestepsOf(rows), prediction, { prevSample });
}

function predict(data: Pick<StageData, "policy" | "trainSet" | "needs">, rows: readonly Row[], states: Tensor): Tensor {
  return data.policy.predict(states, timestepsOf(rows), conditioningOf(data, rows));
}

function latents(data: StageData, pairs: MicroBatch): LatentBatch {
  const rows = rowsOf(pairs);
  const { policy, trainSet, seed } = data;
  const { scheduler } = policy.model;
  const timesteps = timestepsOf(rows);
  const final = trainSet.latents.size(1) - 1;
  const original = recordedStates(data, rows, () => final);
  const noise = noiseOf(rows, { seed, trainSet, policy });
  const noisy = scheduler.addNoise(original, noise, timesteps);
  const others = otherPredictions(data, rows, noisy);
  const prediction = predict(data, rows, noisy);
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
    timesteps: timestepsOf(rows),
    scheduler: data.policy.model.scheduler,
  };
}

/** Fresh noise for every draw of every sample, independent of batching. */
function noiseOf(
  rows: readonly Row[],
  { seed, trainSet, policy }: Pick<StageData, "seed" | "trainSet" | "policy">,
): Tensor {
  const size = policy.latentShape;
  return tidy(() => {
    const parts = rows.map(({ row, draw }) => {
      const key = trainSet.keys[row]!;
      const root = addressedRoot(key, trainSet);
      const address = { seed, stream: "train-noise", stage: trainSet.stage, root, branch: key.branch + 1 } as const;
      return gaussian([address], draw, size);
    });
    return cat(parts).to({ device: policy.device });
  });
}

type OtherPredictions = Pick<TransitionBatch, "basePrediction" | "samplerPrediction">;

/**
 * Predictions of the base or the sampling weights. They come before those of the weights in training: weights are
 * swapped in place, which would invalidate a graph that awaits its backward pass.
 */
function otherPredictions(data: StageData, rows: readonly Row[], states: Tensor): OtherPredictions {
  const { policy, sampler, needs } = data;
  const predictions = (): Tensor => tidy(() => predict(data, rows, states));
  return {
    ...(needs.base && { basePrediction: policy.trainable!.withBase(predictions) }),
    ...(needs.sampler && sampler !== undefined && { samplerPrediction: sampler.use(predictions) }),
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

const recordedPair = (data: Pick<StageData, "policy" | "trainSet">, rows: readonly Row[]): RecordedPair => {
  return {
    x: recordedStates(data, rows, ({ step }) => step),
    prevSample: recordedStates(data, rows, ({ step }) => step + 1),
  };
};

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

const timestepsOf = (rows: readonly Row[]): number[] => rows.map(({ timestep }) => timestep);
