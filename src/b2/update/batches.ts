/**
 * Builds the input of an objective for a micro-batch: recorded transitions with their log-probs, or clean latents
 * diffused again; and the predictions it needs. Records stay on the CPU; the rows of a micro-batch move to the device
 * in one copy.
 */
import { optionsOf, type Named } from "../../base/registry.js";
import type { Conditioning } from "../../pipeline/index.js";
import { cat, tensor, tidy, type Tensor } from "../../torch/index.js";
import type { LatentBatch, ObjectiveKind, ObjectiveResult, TransitionBatch } from "../objectives/index.js";
import type { Policy } from "../policy/policy.js";
import type { WeightCopy } from "../policy/trainable.js";
import type { TrainSet } from "../records.js";
import { gaussian } from "../rollout/denoise.js";
import { rowsOf, type MicroBatch, type Row } from "./plan.js";

/** What all micro-batches of a stage share. */
export interface StageData {
  readonly policy: Policy;
  readonly trainSet: TrainSet;
  readonly seed: number;
  /** One per sample of the train set, clipped and weighted. */
  readonly advantages: readonly number[];
  readonly objective: ObjectiveKind;
  readonly options: Named;
  /** The log-probs that rows were sampled with; only for objectives on transitions. */
  readonly oldLogProbs?: ((pairs: MicroBatch) => Float32Array) | undefined;
  /** The weights that sampled the stage, if the objective needs their predictions. */
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
export function logProbOf(data: Pick<StageData, "policy" | "trainSet" | "objective">, rows: readonly Row[]): Tensor {
  return recorded(data, rows).logProb;
}

function transitions(data: StageData, pairs: MicroBatch): TransitionBatch {
  const rows = rowsOf(pairs);
  const others = otherPredictions(data, rows, () => statesAt(data, rows, 0));
  const { prediction, logProb, sigma } = recorded(data, rows);
  return {
    ...others,
    prediction,
    logProb,
    sigma,
    oldLogProb: tensor(data.oldLogProbs!(pairs)).to({ device: logProb.device }),
    advantage: advantagesOf(data, rows),
    timesteps: timestepsOf(data, rows),
    scheduler: data.policy.model.scheduler,
  };
}

function recorded(
  data: Pick<StageData, "policy" | "trainSet" | "objective">,
  rows: readonly Row[],
): { prediction: Tensor; logProb: Tensor; sigma: readonly number[] } {
  const { policy } = data;
  const x = statesAt(data, rows, 0);
  const timesteps = timestepsOf(data, rows);
  const prediction = policy.predict(x, timesteps, conditioningOf(data, rows));
  const { logProb, sigma } = policy.transition(x, timesteps, prediction, { prevSample: statesAt(data, rows, 1) });
  return { prediction, logProb, sigma };
}

function latents(data: StageData, pairs: MicroBatch): LatentBatch {
  const rows = rowsOf(pairs);
  const { policy, trainSet, seed } = data;
  const { scheduler } = policy.model;
  const timesteps = timestepsOf(data, rows);
  const final = trainSet.latents.size(1) - 1;
  const original = recordedStates(data, rows, () => final);
  const noise = noiseOf(rows, { seed, trainSet, policy });
  const noisy = scheduler.addNoise(original, noise, timesteps);
  const others = otherPredictions(data, rows, () => noisy);
  const prediction = policy.predict(noisy, timesteps, conditioningOf(data, rows));
  const target = scheduler.target(original, noise, timesteps);
  const advantage = advantagesOf(data, rows);
  return { ...others, prediction, original, noise, noisy, target, advantage, timesteps, scheduler };
}

/** Fresh noise for every (sample, timestep, epoch), independent of batching. */
function noiseOf(
  rows: readonly Row[],
  { seed, trainSet: { stage, keys, timesteps }, policy }: Pick<StageData, "seed" | "trainSet" | "policy">,
): Tensor {
  const size = policy.latentShape;
  return tidy(() => {
    const parts = rows.map(({ row, step, epoch }) => {
      const { root, branch } = keys[row]!;
      const key = { seed, stream: "train-noise", stage, root, branch: branch + 1 } as const;
      return gaussian([key], epoch * timesteps.length + step, size);
    });
    return cat(parts).to({ device: policy.device });
  });
}

/**
 * Predictions of the base or the sampling weights. They come before those of the weights in training: weights are
 * swapped in place, which would invalidate a graph that awaits its backward pass.
 */
function otherPredictions(
  data: StageData,
  rows: readonly Row[],
  states: () => Tensor,
): Pick<TransitionBatch, "basePrediction" | "samplerPrediction"> {
  const { policy, sampler, objective } = data;
  if (objective.needs?.base !== true && sampler === undefined) return {};
  const predict = (): Tensor =>
    tidy(() => policy.predict(states(), timestepsOf(data, rows), conditioningOf(data, rows)));
  return {
    ...(objective.needs?.base === true && { basePrediction: policy.trainable!.withBase(predict) }),
    ...(sampler !== undefined && { samplerPrediction: sampler.use(predict) }),
  };
}

function conditioningOf(
  { policy, trainSet, objective }: Pick<StageData, "policy" | "trainSet" | "objective">,
  rows: readonly Row[],
): Conditioning {
  const guided = objective.needs?.guided ?? objective.learnsFrom === "transitions";
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

const timestepsOf = ({ trainSet }: Pick<StageData, "trainSet">, rows: readonly Row[]): number[] =>
  rows.map(({ step }) => trainSet.timesteps[step]!);

function advantagesOf({ policy, advantages }: StageData, rows: readonly Row[]): Tensor {
  return tensor(
    Float32Array.from(rows, ({ row }) => advantages[row]!),
    { device: policy.device },
  );
}
