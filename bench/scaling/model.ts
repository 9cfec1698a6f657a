/**
 * A model on paper of what a stage takes with N workers.
 *
 * - Compute: a phase is divided in whole batches, as `batchShareOf` and `shareOf` divide it, and lasts as long as its
 *   slowest worker.
 * - Collectives: alpha for each message and beta for each byte that a worker sends or receives one after the other, by the
 *   algorithms of Gloo.
 * - What every worker does for itself, and what rank 0 does alone while the others wait, does not shrink.
 */
import { batchShareOf } from "../../src/distributed/index.js";

/** The numbers of a stage that its time depends on. */
export interface StageWork {
  readonly roots: number;
  /** K: images of a root. */
  readonly branches: number;
  /** T: denoising steps of a trajectory. */
  readonly steps: number;
  /** s: the last steps, which are branched and recorded. */
  readonly interval: number;
  /** How many of these train. */
  readonly trainedSteps: number;
  readonly sampleBatch: number;
  readonly decodeBatch: number;
  /** Samples that train. */
  readonly selected: number;
  readonly epochs: number;
  readonly samplesPerUpdate: number;
  readonly microBatch: number;
  /** Of one image at one step. */
  readonly latentBytes: number;
  /** Numbers that are trained, float32. */
  readonly parameters: number;
}

/** Seconds of a batch: `row` for each of its rows, but at least `floor`, what queueing its operators takes. */
export interface BatchCost {
  readonly row: number;
  readonly floor: number;
}

/** Seconds of the slowest of N workers for so many rows in whole batches. */
export function slowestShare(total: number, batchSize: number, size: number, { row, floor }: BatchCost): number {
  const batch = (rows: number): number => (rows === 0 ? 0 : Math.max(floor, rows * row));
  const shares = Array.from({ length: size }, (_, rank) => {
    const { length } = batchShareOf(total, batchSize, { rank, size });
    return Math.floor(length / batchSize) * batch(batchSize) + batch(length % batchSize);
  });
  return Math.max(...shares);
}

/** Pairs of each optimiser step of a stage. */
export function pairsOfUpdates({ selected, epochs, samplesPerUpdate, trainedSteps }: StageWork): number[] {
  const samples = selected * epochs;
  return Array.from(
    { length: Math.ceil(samples / samplesPerUpdate) },
    (_, i) => Math.min(samplesPerUpdate, samples - i * samplesPerUpdate) * trainedSteps,
  );
}

/** What the units of a stage's work take, in seconds. */
export interface UnitCosts {
  /** A denoising step of one latent. */
  readonly step: BatchCost;
  /** Decoding and scoring one image. */
  readonly image: BatchCost;
  /** Forward and backward pass of one pair. */
  readonly pair: BatchCost;
  /** An optimiser step, which every worker makes. */
  readonly update: number;
  /** Selection, which every worker makes. */
  readonly select: number;
  /** Weights and metrics, which rank 0 writes. */
  readonly record: number;
}

export type PhaseTimes = Readonly<Record<"sample" | "score" | "select" | "train" | "record", number>>;

/** Seconds of compute of each phase, of the slowest worker. */
export function computeOf(work: StageWork, size: number, cost: UnitCosts): PhaseTimes {
  const { roots, branches, steps, interval, sampleBatch, decodeBatch, microBatch } = work;
  const stepOf = (rows: number): number => slowestShare(rows, sampleBatch, size, cost.step);
  const updates = pairsOfUpdates(work);
  return {
    sample: stepOf(roots) * (steps - interval) + stepOf(roots * branches) * interval,
    score: slowestShare(roots * branches, decodeBatch, size, cost.image),
    select: cost.select,
    train: updates.reduce((sum, pairs) => sum + slowestShare(pairs, microBatch, size, cost.pair) + cost.update, 0),
    record: cost.record,
  };
}

export type Collective = "broadcast" | "allGather" | "allReduce_";

/** What a worker sends, or receives, one after the other. */
export interface Traffic {
  readonly messages: number;
  readonly bytes: number;
}

/**
 * The traffic of a collective among N workers, by Gloo's algorithms.
 *
 * - broadcast: a binomial tree, whose depth is what the last worker waits for
 * - allGather: N - 1 steps around a ring, each with one worker's bytes
 * - allReduce_: the same ring twice, each step with an N-th of the bytes
 *
 * @param bytes of one worker's tensor
 */
export function trafficOf(name: Collective, size: number, bytes: number): Traffic {
  const others = size - 1;
  if (name === "broadcast") {
    const depth = Math.ceil(Math.log2(size));
    return { messages: depth, bytes: depth * bytes };
  }
  return name === "allGather"
    ? { messages: others, bytes: others * bytes }
    : { messages: 2 * others, bytes: (2 * others * bytes) / size };
}

/** Some collectives of one kind. */
export interface Planned {
  readonly name: Collective;
  readonly count: number;
  /** Of one worker's tensor, in each. */
  readonly bytes: number;
}

/** Elements up to which gradients are gathered, and of a bucket of larger ones: `limits` of src/b2/update/gradients.ts. */
export const MOST_GATHERED = 64e6;
export const BUCKET = 25 * 2 ** 18;

/** JSON is sent behind its length, which is a collective of its own. */
const json = (name: Collective, count: number, bytes: number): Planned[] => [
  { name, count, bytes: 8 },
  { name, count, bytes },
];

/** Bytes of JSON: a score with its comma, a worker's sums of an optimiser step, a hash, and a value such as `null`. */
const JSON_BYTES = { score: 20, sums: 160, hash: 66, value: 4 };

/** The collectives of a stage by phase; none for one worker. */
export function collectivesOf(
  work: StageWork,
  size: number,
): Readonly<Record<"sample" | "score" | "train", Planned[]>> {
  if (size === 1) return { sample: [], score: [], train: [] };
  const { roots, branches, interval, sampleBatch, decodeBatch, latentBytes, parameters } = work;
  const images = roots * branches;
  /** Each worker that has rows broadcasts them. */
  const exchanged = (rows: number, bytesOfAll: number): Planned => {
    const count = Math.min(size, Math.ceil(rows / sampleBatch));
    return { name: "broadcast", count, bytes: bytesOfAll / count };
  };
  const updates = pairsOfUpdates(work).length;
  const scored = Math.ceil(Math.ceil(images / decodeBatch) / size) * decodeBatch;
  return {
    sample: [
      exchanged(roots, images * latentBytes),
      exchanged(images, images * (interval + 1) * latentBytes),
      exchanged(images, images * interval * 4),
    ],
    score: [...json("broadcast", 1, JSON_BYTES.value), ...json("allGather", 1, scored * JSON_BYTES.score)],
    train: [
      ...gradientsOf(parameters, updates),
      ...json("broadcast", 1, JSON_BYTES.value),
      ...json("allGather", updates, JSON_BYTES.sums),
      ...json("allGather", 1, JSON_BYTES.hash),
    ],
  };
}

function gradientsOf(parameters: number, updates: number): Planned[] {
  if (parameters <= MOST_GATHERED) return [{ name: "allGather", count: updates, bytes: 4 * parameters }];
  const buckets = Math.ceil(parameters / BUCKET);
  return [{ name: "allReduce_", count: updates * buckets, bytes: (4 * parameters) / buckets }];
}

/** Seconds for each message, and for each byte. */
export interface Link {
  readonly alpha: number;
  readonly beta: number;
}

/** Seconds of some collectives over links that may differ by collective. */
export function secondsOf(
  planned: readonly Planned[],
  size: number,
  links: Readonly<Record<Collective, Link>>,
): number {
  return planned.reduce((sum, { name, count, bytes }) => {
    const traffic = trafficOf(name, size, bytes);
    return sum + count * (links[name].alpha * traffic.messages + links[name].beta * traffic.bytes);
  }, 0);
}

/**
 * The alpha and beta with the least squares of relative errors, neither below zero.
 *
 * @param times of one collective at several sizes
 */
export function fitLink(times: readonly (Traffic & { readonly seconds: number })[]): Link {
  // Relative errors: each row is divided by its seconds, so that 1 is what is to be met.
  const rows = times.map(({ messages, bytes, seconds }) => [messages / seconds, bytes / seconds] as const);
  const sum = (of: (row: readonly [number, number]) => number): number => rows.reduce((all, row) => all + of(row), 0);
  const [aa, ab, bb] = [sum(([a]) => a * a), sum(([a, b]) => a * b), sum(([, b]) => b * b)];
  const [a1, b1] = [sum(([a]) => a), sum(([, b]) => b)];
  const determinant = aa * bb - ab * ab;
  const [alpha, beta] = [(bb * a1 - ab * b1) / determinant, (aa * b1 - ab * a1) / determinant];
  if (alpha < 0) return { alpha: 0, beta: b1 / bb };
  return beta < 0 ? { alpha: a1 / aa, beta: 0 } : { alpha, beta };
}

/**
 * Seconds of a backward pass whose gradients are summed bucket by bucket while it goes on: buckets are ready one after the
 * other, at equal distances, and are sent one after the other.
 *
 * @param backward seconds of the pass that the sum overlaps with: the last of an optimiser step
 * @param bucket seconds of summing one bucket
 */
export function overlapped(backward: number, bucket: number, buckets: number): number {
  let end = 0;
  for (let i = 1; i <= buckets; i++) end = Math.max(end, (backward * i) / buckets) + bucket;
  return end;
}
