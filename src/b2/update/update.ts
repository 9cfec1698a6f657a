/**
 * The update of a stage: optimiser steps over the (sample, timestep) pairs of the selected branches.
 *
 * The gradient of one optimiser step is the mean over the pairs of `train.samplesPerUpdate` samples with all their
 * trained timesteps, as the reference accumulates it over 64 micro-batches of 2 samples times s timesteps; here the
 * pairs pass through the denoiser in micro-batches of any size.
 *
 * Departures from the reference: the samples left over at a stage's end make an optimiser step of their own, with the
 * mean over their own pairs, instead of being dropped; and `timestepFraction` really skips timesteps.
 *
 * Several workers share the micro-batches of each optimiser step, and add up their gradients (gradients.ts).
 */
import { checkInterrupted } from "../../base/progress.js";
import { alone, shareOf, type WithWorkers } from "../../distributed/index.js";
import { clipGradNorm, GradScaler, type AdamW } from "../../optim/index.js";
import type { UpdateMetrics } from "../../runs/index.js";
import { discardCheckpoints, tidy, yieldToEventLoop } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import { needsOf, objectives } from "../objectives/index.js";
import type { Followers } from "../policy/followers.js";
import type { Policy } from "../policy/policy.js";
import { WeightCopy } from "../policy/weight-copy.js";
import type { TrainSet } from "../records.js";
import { weightedAdvantages } from "../rollout/advantage.js";
import { lossOf, type StageData } from "./batches.js";
import { addGradients } from "./gradients.js";
import { recomputeLogProbs, sampledLogProbs } from "./old-log-probs.js";
import { planUpdates, type MicroBatch } from "./plan.js";
import { changeWeights } from "./step-weights.js";
import { Tally } from "./tally.js";
import { timestepsOfStage } from "./timesteps.js";

/** The optimiser of the policy's parameters, and the loss scaler of float16. */
export interface Optimization {
  readonly optimizer: AdamW;
  readonly scaler?: GradScaler;
  /** Weights that follow those in training. */
  readonly followers?: Pick<Followers, "sampler" | "updated">;
}

/**
 * Trains on a stage's selection. Makes no update for an empty selection, or one without an item for the objective.
 *
 * @returns one record per optimiser step
 */
export async function updatePolicy(
  policy: Policy,
  { optimizer, scaler = new GradScaler({ enabled: false }), followers }: Optimization,
  trainSet: TrainSet,
  config: Pick<Config, "seed" | "train" | "advantage" | "objective" | "branch" | "interval">,
  { progress, signal, workers = alone }: WithWorkers,
): Promise<UpdateMetrics[]> {
  const objective = objectives.get(config.objective.name);
  const drawTimesteps = timestepsOfStage(trainSet, config, policy.timesteps);
  const planned = planUpdates(trainSet, objective, config, drawTimesteps);
  if (planned.flat(2).length === 0) return [];
  // Of each optimiser step the micro-batches of this worker.
  const updates = planned.map((microBatches) => {
    const { start, length } = shareOf(microBatches.length, workers);
    return microBatches.slice(start, start + length);
  });
  const total = updates.flat(2).length;
  const needs = needsOf(config.objective);
  const data: StageData = {
    policy,
    trainSet,
    objective,
    needs,
    seed: config.seed,
    options: config.objective,
    advantages: weightedAdvantages(trainSet.advantages, config.advantage),
    advantageClip: config.advantage.clip,
    stepWeight: config.train.stepWeights === "change" ? changeWeights(trainSet) : undefined,
  };
  let sampler = followers?.sampler;
  // Without followers the weights in training have sampled; they change at the first optimiser step.
  const isNeeded = needs.sampler && sampler === undefined && updates.length > 1;
  const start = isNeeded ? new WeightCopy(policy.parameters) : undefined;
  const task = progress.task("training", total, "pairs");
  const log: UpdateMetrics[] = [];
  try {
    const oldLogProbs =
      objective.learnsFrom === "transitions" ? await oldLogProbsOf(data, updates, config.train, signal) : undefined;
    for (const [step, microBatches] of updates.entries()) {
      let tally = new Tally();
      const pairs = planned[step]!.flat().length;
      for (const microBatch of microBatches) {
        checkInterrupted(signal);
        const share = (scaler.scale * microBatch.length) / pairs;
        policy.passes.trained(() =>
          tidy(() => {
            const { loss, metrics } = lossOf({ ...data, oldLogProbs, sampler }, microBatch);
            loss.mul(share).backward();
            tally.add(microBatch.length, loss.item(), metrics);
          }),
        );
        task.advance(microBatch.length, `loss ${tally.loss.toFixed(4)}`);
        await yieldToEventLoop();
      }
      if (workers.size > 1) {
        await addGradients(policy.parameters.values(), workers);
        tally = Tally.of(await workers.allGatherJson(tally.sums));
      }
      scaler.unscale_(policy.parameters.values());
      const gradNorm = clipGradNorm(policy.parameters.values(), config.train.maxGradNorm);
      // A gradient that is not finite would corrupt Adam's moments for good.
      const isFinite = Number.isFinite(gradNorm);
      if (isFinite) {
        optimizer.step();
        followers?.updated();
        sampler ??= start;
      }
      optimizer.zeroGrad();
      const { scale: lossScale } = scaler;
      scaler.update(!isFinite);
      log.push({ update: log.length, pairs, ...tally.metrics(), gradNorm, lossScale, skipped: isFinite ? 0 : 1 });
      await yieldToEventLoop();
    }
  } finally {
    // After an error a forward pass may still await its backward pass.
    discardCheckpoints();
    optimizer.zeroGrad();
    start?.dispose();
    task.done();
  }
  return log;
}

function oldLogProbsOf(
  data: StageData,
  updates: readonly (readonly MicroBatch[])[],
  train: Config["train"],
  signal: AbortSignal | undefined,
): StageData["oldLogProbs"] | Promise<StageData["oldLogProbs"]> {
  const isExact = data.policy.model.computeDtype === "float32";
  const source = train.oldLogProbs ?? (isExact ? "sampled" : "recomputed");
  return source === "sampled" ? sampledLogProbs(data.trainSet) : recomputeLogProbs(data, updates, signal);
}
