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
 * Several workers share the micro-batches of each optimiser step, and add up their gradients (gradients.ts): large ones
 * while the last of a worker's micro-batches goes backward.
 */
import { checkInterrupted, type Progress, type ProgressTask } from "../../base/progress.js";
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
import { GradientSum } from "./gradients.js";
import { notFinitePairs } from "./not-finite.js";
import { recomputeLogProbs, sampledLogProbs } from "./old-log-probs.js";
import { planUpdates, recut, type MicroBatch } from "./plan.js";
import { Skips } from "./skipped.js";
import { changeWeights } from "./step-weights.js";
import { Tally } from "./tally.js";
import { timestepsOfStage } from "./timesteps.js";

/** The optimiser of the policy's parameters, and the loss scaler of float16. */
export interface Optimization {
  readonly optimizer: AdamW;
  readonly scaler?: GradScaler;
  /** Weights that follow those in training. */
  readonly followers?: Pick<Followers, "sampler" | "updated">;
  /** How many steps in a row were skipped before this stage. Default: 0. */
  readonly skippedBefore?: number;
  /** Adds up the gradients of the workers. Default: one for this stage. */
  readonly gradients?: GradientSum;
}

/**
 * Trains on a stage's selection. Makes no update for an empty selection, or one without an item for the objective. A step
 * whose loss or gradient is not finite is skipped and told, with the samples at fault.
 *
 * @returns one record per optimiser step
 * @throws InputError after more than `train.mostSkipped` steps in a row that were skipped
 */
export async function updatePolicy(
  policy: Policy,
  optimization: Optimization,
  trainSet: TrainSet,
  config: Pick<Config, "seed" | "train" | "advantage" | "objective" | "branch" | "interval">,
  { progress, signal, workers = alone }: WithWorkers,
): Promise<UpdateMetrics[]> {
  const { optimizer, scaler = new GradScaler({ enabled: false }), followers, skippedBefore = 0 } = optimization;
  const objective = objectives.get(config.objective.name);
  const drawTimesteps = timestepsOfStage(trainSet, config, policy.timesteps);
  const planned = planUpdates(trainSet, objective, config, drawTimesteps);
  if (planned.flat(2).length === 0) return [];
  // Of each optimiser step the micro-batches of this worker.
  const updates = planned.map((microBatches) => {
    const { start, length } = shareOf(microBatches.length, workers);
    const own = microBatches.slice(start, start + length);
    return recut(own, policy.batches.of("train.microBatch", config.train.microBatch));
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
  const gradients = optimization.gradients ?? new GradientSum(policy.parameters.values(), workers);
  const skips = new Skips(skippedBefore, trainSet.stage, config.train.mostSkipped, progress);
  const memory = { policy, progress, forget: () => forgetGradients(optimizer) };
  try {
    const oldLogProbs =
      objective.learnsFrom === "transitions"
        ? await withinMemory(memory, updates, (some) => oldLogProbsOf(data, some, config.train, signal))
        : undefined;
    for (const [i, own] of updates.entries()) {
      const pairs = planned[i]!.flat().length;
      const step = { ...data, oldLogProbs, sampler, gradients };
      const accumulated = await withinMemory(memory, [own], ([microBatches]) =>
        accumulate(step, microBatches!, { pairs, scale: scaler.scale }, task, signal),
      );
      const { microBatches } = accumulated;
      let { tally } = accumulated;
      await gradients.sum();
      if (workers.size > 1) tally = Tally.of(await workers.allGatherJson(tally.sums));
      scaler.unscale_(policy.parameters.values());
      const gradNorm = clipGradNorm(policy.parameters.values(), config.train.maxGradNorm);
      // A gradient that is not finite would corrupt Adam's moments for good.
      const isFinite = Number.isFinite(gradNorm) && Number.isFinite(tally.loss);
      const { scale: lossScale } = scaler;
      // A loss scale that is too large is what float16 finds out by trying.
      const isFault = !isFinite && (lossScale <= 1 || !Number.isFinite(tally.loss));
      const notFinite = isFault
        ? (await workers.allGatherJson(await notFinitePairs(step, microBatches, signal))).flat()
        : undefined;
      if (isFinite) {
        optimizer.step();
        followers?.updated();
        sampler ??= start;
      }
      optimizer.zeroGrad();
      scaler.update(!isFinite);
      const skipped = { skipped: isFinite ? 0 : 1, ...(notFinite && { notFinite }) } as const;
      log.push({ update: log.length, pairs, ...tally.metrics(), gradNorm, lossScale, ...skipped });
      skips.add(log.at(-1)!);
      await yieldToEventLoop();
    }
  } finally {
    forgetGradients(optimizer);
    start?.dispose();
    if (optimization.gradients === undefined) gradients.dispose();
    task.done();
  }
  return log;
}

/**
 * Adds the gradients of micro-batches to those of the parameters.
 *
 * @param options `pairs`: how many the optimiser step has, over which the loss is a mean; `scale`: its factor
 */
async function accumulate(
  step: StageData & { readonly gradients: GradientSum },
  microBatches: readonly MicroBatch[],
  { pairs, scale }: { pairs: number; scale: number },
  task: ProgressTask,
  signal: AbortSignal | undefined,
): Promise<{ tally: Tally; microBatches: readonly MicroBatch[] }> {
  const tally = new Tally();
  let advanced = 0;
  try {
    for (const [i, microBatch] of microBatches.entries()) {
      checkInterrupted(signal);
      const isLast = i === microBatches.length - 1;
      const share = (scale * microBatch.length) / pairs;
      step.policy.passes.trained(() =>
        tidy(() => {
          const { loss, metrics } = lossOf(step, microBatch);
          const scaled = loss.mul(share);
          step.gradients.during(() => scaled.backward(), { isLast });
          tally.add(microBatch.length, loss.item(), metrics);
        }),
      );
      task.advance(microBatch.length, `loss ${tally.loss.toFixed(4)}`);
      advanced += microBatch.length;
      await yieldToEventLoop();
    }
  } catch (error) {
    task.advance(-advanced);
    throw error;
  }
  return { tally, microBatches };
}

/** Drops the gradients so far. After an error a forward pass may still await its backward pass. */
function forgetGradients(optimizer: AdamW): void {
  discardCheckpoints();
  optimizer.zeroGrad();
}

/**
 * Runs `work`; where its micro-batches are too much for the device's memory, again from the start with halves.
 *
 * @param updates the micro-batches of optimiser steps
 */
async function withinMemory<T>(
  { policy, progress, forget }: { policy: Policy; progress: Progress; forget: () => void },
  updates: readonly (readonly MicroBatch[])[],
  work: (updates: readonly (readonly MicroBatch[])[]) => T | Promise<T>,
): Promise<T> {
  const most = Math.max(...updates.flat().map(({ length }) => length));
  const fitting = (size: number): (readonly MicroBatch[])[] => updates.map((some) => recut(some, size));
  try {
    return await work(fitting(policy.batches.of("train.microBatch", most)));
  } catch (error) {
    if (!policy.batches.halve("train.microBatch", most, error, progress)) throw error;
    forget();
    return work(fitting(policy.batches.of("train.microBatch", most)));
  }
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
