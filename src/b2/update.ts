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
import { type AdamW, clipGradNorm, GradScaler } from "../optim/index.js";
import { yieldToEventLoop, discardCheckpoints, type Tensor, tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { dpo, type ObjectiveResult, ppo, type Transitions, weightedAdvantages } from "./objective.js";
import type { Policy } from "./policy.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { permutation } from "../base/philox.js";
import type { TrainSet } from "./records.js";
import { chunks } from "../base/chunks.js";

/** What trains as one: a sample for ppo; the best and the worst branch of a root for dpo. Rows of the TrainSet. */
type Item = readonly number[];

/** An item at one of its trained timesteps. */
interface Pair {
  readonly item: Item;
  readonly step: number;
}

/** Pairs that go through the UNet at once. */
type MicroBatch = readonly Pair[];

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
  { progress, signal, scaler = new GradScaler({ enabled: false }) }: RunContext & { readonly scaler?: GradScaler },
): Promise<UpdateMetrics[]> {
  const { train } = config;
  const updates = planUpdates(trainSet, config).map((pairs) =>
    [...chunks(pairs.length, train.microBatch)].map(([start, length]) => pairs.slice(start, start + length)),
  );
  const total = updates.flat(2).length;
  if (total === 0) return [];
  const advantages = weightedAdvantages(trainSet.advantages, config.advantage);
  const task = progress.task("training", total, "pairs");
  const log: UpdateMetrics[] = [];
  const { unet, computeDtype } = policy.pipeline;
  unet.gradientCheckpointing = train.gradientCheckpointing;
  try {
    const source = train.oldLogProbs ?? (computeDtype === "float32" ? "sampled" : "recomputed");
    const oldLogProbs =
      source === "sampled" ? sampledLogProbs(trainSet) : await recomputeLogProbs(policy, trainSet, updates, signal);
    for (const microBatches of updates) {
      const tally = new Tally();
      const of = microBatches.flat().length;
      for (const pairs of microBatches) {
        checkInterrupted(signal);
        const options = { oldLogProbs, advantages, train, scale: scaler.scale, of };
        tally.add(pairs.length, () => descend(policy, trainSet, pairs, options));
        task.advance(pairs.length, `loss ${tally.mean("loss").toFixed(4)}`);
        await yieldToEventLoop();
      }
      scaler.unscale_(policy.parameters.values());
      const gradNorm = clipGradNorm(policy.parameters.values(), train.maxGradNorm);
      // A gradient that is not finite would poison Adam's moments for good.
      const skipped = !Number.isFinite(gradNorm);
      if (!skipped) optimizer.step();
      optimizer.zeroGrad();
      const { scale } = scaler;
      scaler.update(skipped);
      log.push({
        ...{ update: log.length, pairs: of, ...tally.metrics() },
        ...{ gradNorm, lossScale: scale, skipped: skipped ? 1 : 0 },
      });
      await yieldToEventLoop();
    }
  } finally {
    unet.gradientCheckpointing = false;
    discardCheckpoints();
    optimizer.zeroGrad();
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
  readonly oldLogProbs: OldLogProbs;
  readonly advantages: readonly number[];
  readonly train: Config["train"];
  /** What the loss is multiplied by before backward. */
  readonly scale: number;
  /** Pairs of the whole optimiser step. */
  readonly of: number;
}

/** Adds the gradient of a micro-batch to the parameters', and returns its loss and metrics. */
function descend(
  policy: Policy,
  trainSet: TrainSet,
  pairs: MicroBatch,
  { oldLogProbs, advantages, train, scale, of }: DescendOptions,
): { loss: number; metrics: ObjectiveResult["metrics"] } {
  return tidy(() => {
    const rows = rowsOf(pairs);
    const { metrics, loss } = objective(train, {
      logProb: logProbOf(policy, trainSet, rows),
      oldLogProb: tensor(oldLogProbs(pairs)),
      advantage: tensor(Float32Array.from(rows, ({ row }) => advantages[row]!)),
    });
    loss.mul((scale * pairs.length) / of).backward();
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

/** The transitions of a micro-batch, in the order in which it goes through the UNet. */
function rowsOf(pairs: MicroBatch): Transition[] {
  // For dpo: all best branches, then all worst ones.
  return pairs[0]!.item.flatMap((_, member) => pairs.map(({ item, step }) => ({ row: item[member]!, step })));
}

/** The log-probs of a micro-batch's rows under the policy that sampled, [B]. */
type OldLogProbs = (pairs: MicroBatch) => Float32Array;

/** Those that the sampler recorded. */
function sampledLogProbs({ logProbs, timesteps: { length: steps } }: TrainSet): OldLogProbs {
  const table = logProbs.toTypedArray() as Float32Array;
  return (pairs) => Float32Array.from(rowsOf(pairs), ({ row, step }) => table[row * steps + step]!);
}

/**
 * Those of the policy as it is, before the first optimiser step.
 *
 * How half precision rounds depends on what else is in a batch, so that a log-prob is the same to the bit only in a batch
 * of the same rows: all micro-batches of the first update count as they are, and so does every later one with a pair that
 * was not met before. The others, those of later epochs, take a pair's value from where it was first met.
 */
async function recomputeLogProbs(
  policy: Policy,
  trainSet: TrainSet,
  updates: readonly (readonly MicroBatch[])[],
  signal: AbortSignal | undefined,
): Promise<OldLogProbs> {
  const steps = trainSet.timesteps.length;
  const place = ({ row, step }: Transition): number => row * steps + step;
  const known = new Map<number, number>();
  const whole = new Map<MicroBatch, Float32Array>();
  const first = new Set(updates[0]);
  for (const pairs of updates.flat()) {
    const rows = rowsOf(pairs);
    if (!first.has(pairs) && rows.every((row) => known.has(place(row)))) continue;
    checkInterrupted(signal);
    // Recording, as the update will: without, some devices take other kernels, which round otherwise.
    const values = tidy(() => logProbOf(policy, trainSet, rows).detach().toTypedArray() as Float32Array);
    discardCheckpoints();
    whole.set(pairs, values);
    rows.forEach((row, i) => {
      if (!known.has(place(row))) known.set(place(row), values[i]!);
    });
    await yieldToEventLoop();
  }
  return (pairs) => whole.get(pairs) ?? Float32Array.from(rowsOf(pairs), (row) => known.get(place(row))!);
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
