/**
 * The update of a stage: optimiser steps over the (sample, timestep) pairs of the selected trajectories.
 *
 * The gradient of one optimiser step is the mean over the pairs of `train.samplesPerUpdate` samples with all their
 * trained timesteps, as the reference accumulates it over 64 micro-batches of 2 samples times s timesteps; here the
 * pairs go through the UNet in micro-batches of any size.
 *
 * Departures from the reference: the samples left over at a stage's end make an optimiser step of their own, with the
 * mean over their own pairs, instead of being dropped; and `timestepFraction` really leaves timesteps out.
 */
import type { AdamW } from "../optim/index.js";
import { clipGradNorm } from "../optim/index.js";
import { breathe, noGrad, type Tensor, tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { dpo, type ObjectiveResult, ppo, type Transitions, weightedAdvantages } from "./objective.js";
import type { Policy } from "./policy.js";
import { checkInterrupted, type Surroundings } from "./progress.js";
import { permutation } from "./random.js";
import type { TrainSet } from "./records.js";
import { chunks } from "./sampling.js";

/** What trains as one: a sample for ppo; the best and the worst branch of a root for dpo. Rows of the TrainSet. */
type Item = readonly number[];

/** An item at one of its trained timesteps. */
interface Pair {
  readonly item: Item;
  readonly step: number;
}

/** One optimiser step, as updates.jsonl has it; docs/metrics.md explains each. */
export type UpdateMetrics = Readonly<Record<string, number>>;

/**
 * Trains on a stage's selection. An empty selection, or one without pairs for dpo, is no update.
 *
 * @returns one record per optimiser step
 */
export async function updatePolicy(
  policy: Policy,
  optimizer: AdamW,
  trainSet: TrainSet,
  config: Pick<Config, "seed" | "train" | "advantage">,
  { progress, signal }: Surroundings,
): Promise<UpdateMetrics[]> {
  const updates = planUpdates(trainSet, config);
  const total = updates.reduce((sum, pairs) => sum + pairs.length, 0);
  if (total === 0) return [];
  const { train } = config;
  const advantages = weightedAdvantages(trainSet.advantages, config.advantage);
  const task = progress.task("training", total, "pairs");
  const log: UpdateMetrics[] = [];
  let oldLogProbs = trainSet.logProbs;
  try {
    if (train.oldLogProbs === "recomputed") {
      oldLogProbs = await recomputeLogProbs(policy, trainSet, train.microBatch, signal);
    }
    for (const pairs of updates) {
      const tally = new Tally();
      for (const [start, length] of chunks(pairs.length, train.microBatch)) {
        checkInterrupted(signal);
        const part = pairs.slice(start, start + length);
        tally.add(length, () =>
          descend(policy, trainSet, part, { ...{ oldLogProbs, advantages, train }, of: pairs.length }),
        );
        task.advance(length, `loss ${tally.mean("loss").toFixed(4)}`);
        await breathe();
      }
      const gradNorm = clipGradNorm(policy.parameters.values(), train.maxGradNorm);
      // A gradient that is not finite would poison Adam's moments for good.
      const skipped = !Number.isFinite(gradNorm);
      if (!skipped) optimizer.step();
      optimizer.zeroGrad();
      log.push({ update: log.length, pairs: pairs.length, ...tally.metrics(), gradNorm, skipped: skipped ? 1 : 0 });
      await breathe();
    }
  } finally {
    optimizer.zeroGrad();
    if (oldLogProbs !== trainSet.logProbs) oldLogProbs.dispose();
    task.done();
  }
  return log;
}

/**
 * The pairs of each optimiser step. Every epoch goes over all items in a new order, each with its timesteps in a new
 * order (the first `timestepFraction` of it); optimiser steps go on from epoch to epoch.
 */
export function planUpdates(trainSet: TrainSet, { seed, train }: Pick<Config, "seed" | "train">): Pair[][] {
  const items = train.objective === "dpo" ? bestAndWorst(trainSet) : trainSet.keys.map((_, row) => [row]);
  const s = trainSet.timesteps.length;
  const kept = Math.max(1, Math.round(train.timestepFraction * s));
  const address = { seed, stage: trainSet.stage, branch: 0 };
  const stream: Pair[][] = [];
  for (let epoch = 0; epoch < train.epochs; epoch++) {
    const order = permutation(items.length, { ...address, purpose: "shuffle", root: 0, step: epoch });
    for (const index of order) {
      const item = items[index]!;
      const steps = permutation(s, { ...address, purpose: "timesteps", root: index, step: epoch });
      stream.push([...steps.subarray(0, kept)].map((step) => ({ item, step })));
    }
  }
  const itemsPerUpdate = Math.max(1, Math.floor(train.samplesPerUpdate / (train.objective === "dpo" ? 2 : 1)));
  return [...chunks(stream.length, itemsPerUpdate)].map(([start, length]) =>
    stream.slice(start, start + length).flat(),
  );
}

/** [best, worst] of every root that has two selected branches. */
function bestAndWorst({ keys, advantages }: TrainSet): Item[] {
  const byRoot = new Map<number, number[]>();
  keys.forEach(({ root }, row) => byRoot.set(root, [...(byRoot.get(root) ?? []), row]));
  return [...byRoot.values()]
    .filter((rows) => rows.length === 2)
    .map((rows) => rows.sort((a, b) => advantages[b]! - advantages[a]!));
}

interface DescendOptions {
  readonly oldLogProbs: Tensor;
  readonly advantages: readonly number[];
  readonly train: Config["train"];
  /** Pairs of the whole optimiser step. */
  readonly of: number;
}

/** Adds the gradient of a micro-batch to the parameters', and returns its loss and metrics. */
function descend(
  policy: Policy,
  trainSet: TrainSet,
  pairs: readonly Pair[],
  { oldLogProbs, advantages, train, of }: DescendOptions,
): { loss: number; metrics: ObjectiveResult["metrics"] } {
  return tidy(() => {
    // For dpo: all best branches, then all worst ones.
    const members = pairs[0]!.item.map((_, member) => pairs.map(({ item, step }) => ({ row: item[member]!, step })));
    const rows = members.flat();
    const { metrics, loss } = objective(train, {
      logProb: logProbOf(policy, trainSet, rows),
      oldLogProb: pick(oldLogProbs, rows),
      advantage: tensor(Float32Array.from(rows, ({ row }) => advantages[row]!)),
    });
    loss.mul(pairs.length / of).backward();
    return { loss: loss.item(), metrics };
  });
}

function objective(train: Config["train"], transitions: Transitions): ObjectiveResult {
  switch (train.objective) {
    case "ppo":
      return ppo(transitions, { clipRange: train.clipRange });
    case "dpo":
      return dpo(transitions, { clipRange: train.clipRange, beta: train.dpoBeta });
    default:
      return train.objective satisfies never;
  }
}

interface Transition {
  /** of the TrainSet */
  readonly row: number;
  /** index among the trained timesteps */
  readonly step: number;
}

/** Log-probs of recorded transitions under the policy as it is, [B]. */
function logProbOf(policy: Policy, { keys, timesteps, latents }: TrainSet, rows: readonly Transition[]): Tensor {
  const states = timesteps.length + 1;
  const flat = latents.flatten(0, 1); // [m * (s + 1), C, h, w]
  const at = (offset: number): Tensor =>
    flat.indexSelect(0, tensor(BigInt64Array.from(rows, ({ row, step }) => BigInt(row * states + step + offset))));
  const condition = policy.condition(rows.map(({ row }) => keys[row]!.prompt));
  const perRow = rows.map(({ step }) => timesteps[step]!);
  return policy.transition(at(0), perRow, condition, { prevSample: at(1) }).logProb;
}

/** Entries [row, step] of an [m, s] tensor. */
function pick(table: Tensor, rows: readonly Transition[]): Tensor {
  const index = BigInt64Array.from(rows, ({ row, step }) => BigInt(row * table.size(1) + step));
  return table.flatten().indexSelect(0, tensor(index));
}

/** The log-probs of all recorded transitions under the policy as it is and the numerics of training, [m, s]. */
async function recomputeLogProbs(
  policy: Policy,
  trainSet: TrainSet,
  microBatch: number,
  signal: AbortSignal | undefined,
): Promise<Tensor> {
  const steps = trainSet.timesteps.length;
  const all = trainSet.keys.flatMap((_, row) => trainSet.timesteps.map((_, step) => ({ row, step })));
  const result = new Float32Array(all.length);
  for (const [start, length] of chunks(all.length, microBatch)) {
    checkInterrupted(signal);
    tidy(() => {
      const logProb = noGrad(() => logProbOf(policy, trainSet, all.slice(start, start + length)));
      result.set(logProb.to({ device: "cpu" }).toTypedArray() as Float32Array, start);
    });
    await breathe();
  }
  return tensor(result, { shape: [trainSet.keys.length, steps] });
}

/** Sums up micro-batches to the metrics of one optimiser step. */
class Tally {
  readonly #sums = new Map<string, number>();
  #pairs = 0;
  #ratios = { min: Infinity, max: -Infinity };

  add(pairs: number, run: () => { loss: number; metrics: ObjectiveResult["metrics"] }): void {
    const { loss, metrics } = run();
    this.#pairs += pairs;
    this.#sums.set("loss", (this.#sums.get("loss") ?? 0) + loss * pairs);
    for (const [name, values] of Object.entries(metrics)) {
      // Rows are pairs, or twice as many.
      const sum = (values.reduce((total, value) => total + value, 0) / values.length) * pairs;
      this.#sums.set(name, (this.#sums.get(name) ?? 0) + sum);
    }
    for (const ratio of metrics.ratio) {
      this.#ratios = { min: Math.min(this.#ratios.min, ratio), max: Math.max(this.#ratios.max, ratio) };
    }
  }

  mean(name: string): number {
    return (this.#sums.get(name) ?? 0) / this.#pairs;
  }

  metrics(): Record<string, number> {
    const means = Object.fromEntries([...this.#sums.keys()].map((name) => [name, this.mean(name)]));
    return { ...means, ratioMin: this.#ratios.min, ratioMax: this.#ratios.max };
  }
}
