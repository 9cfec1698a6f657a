/**
 * The model (model.ts) on many cards: what a stage of Stable Diffusion 1.4 and SDXL takes, from times measured on one H200
 * (docs/benchmarks.md) and from assumptions about networks and disks. No run on several cards has been measured.
 */
import {
  BUCKET,
  collectivesOf,
  MOST_GATHERED,
  overlapped,
  pairsOfUpdates,
  slowestShare,
  trafficOf,
  type BatchCost,
  type StageWork,
} from "./model.js";

/** Not measured. Seconds, and bytes a second. */
export const assumed = {
  /** Eight cards to a node: "18x 4th Gen NVLink, 900GB/s" both ways, and 400 Gb/s of InfiniBand for each card. */
  cardsPerNode: 8,
  /** NCCL's rings reach eight tenths of a card's NVLink in one direction, and of a node's InfiniBand. */
  nvlink: 0.8 * 450e9,
  infiniband: 0.8 * 8 * 50e9,
  /** Of a step of NCCL's rings and trees within a node, and between nodes. */
  nvlinkLatency: 2e-6,
  infinibandLatency: 5e-6,
  /** Gloo over TCP: within a node as measured on loopback; between nodes 100 Gb/s, which the workers of a node share. */
  glooLatency: 50e-6,
  /** Of a call, besides its messages: a thread that looks at growing distances whether it has ended. */
  glooCall: 0.2e-3,
  loopback: 2e9,
  ethernet: 12.5e9,
  /** Memory of a node. */
  nodeMemory: 2e12,
  /** Of a node's local disk, which its workers share. */
  disk: 2e9,
  /** SHA-256 of the weights, and their way to the CPU. */
  hash: 1.5e9,
  /** Queueing one operator, of which adding one worker's gradients takes one. */
  operator: 10e-6,
  cardBandwidth: 4e12,
  /** Full fine-tuning has the gradients of the weights as well: three passes' operations in place of two. */
  fullOverLora: 1.5,
  /** Gradient checkpointing runs the forward pass again. */
  checkpointing: 4 / 3,
  /** CLIP ViT-H-14 in float32: 0.33 TFLOP an image at 50 TFLOP/s. */
  reward: 7e-3,
};

/** A model on one H200, at the batches of the preset `sd`. */
export interface CardModel {
  readonly name: string;
  readonly latentBytes: number;
  readonly lora: number;
  readonly full: number;
  readonly step: BatchCost;
  readonly image: BatchCost;
  /** Forward and backward pass of a LoRA. */
  readonly pair: BatchCost;
  /** The forward pass of the old log-probs. */
  readonly forward: BatchCost;
}

const cost = (row: number, floor: number): BatchCost => ({ row, floor });

/** 18.6 s of a stage's training: a forward pass of the old log-probs, and a forward and a backward pass with checkpointing. */
const SD_PAIR = 18.6 / 308;
const SD_FORWARD_SHARE = 0.0521 / (0.0521 + assumed.checkpointing * 0.164);

/** From the measured stage of 12 roots (sampling 8.3 s of 912 steps); floors from the times of one image. */
export const sd14: CardModel = {
  name: "SD 1.4",
  latentBytes: 4 * 4 * 64 * 64,
  lora: 797_184,
  full: 859_520_964,
  step: cost(8.3 / 912, 0.0176),
  image: cost(0.93 / 60 + assumed.reward, 0.028),
  pair: cost(SD_PAIR * (1 - SD_FORWARD_SHARE), 0.0994 * assumed.checkpointing),
  forward: cost(SD_PAIR * SD_FORWARD_SHARE, 0.0207),
};

/** From the times of one image at 1024 x 1024; a batch counts as so many of them. */
export const sdxl: CardModel = {
  name: "SDXL",
  latentBytes: 4 * 4 * 128 * 128,
  lora: 5_806_080,
  full: 2_567_463_684,
  step: cost(0.0633, 0.0633),
  image: cost(0.131 + assumed.reward, 0.131),
  pair: cost(0.311 * assumed.checkpointing, 0.311),
  forward: cost(0.0692, 0.0692),
};

/** What could be otherwise, see `stageOf`. */
export interface Changes {
  /** The all-reduce of full fine-tuning waits for the last backward pass of an optimiser step to end. */
  readonly afterBackward?: boolean;
  /** Everything that docs/benchmarks.md proposes. */
  readonly all?: boolean;
}

export interface Setting {
  readonly model: CardModel;
  readonly weights: "lora" | "full";
  readonly cards: number;
  readonly roots: number;
  readonly samplesPerUpdate: number;
  readonly changes?: Changes;
}

/** The preset `sd` in the middle of a run: 17 of 20 steps; 22 of 60 images train, as in the measured stage. */
export const workOf = ({ model, weights, roots, samplesPerUpdate, cards, changes }: Setting): StageWork => {
  const [branches, steps, interval] = [5, 20, 17];
  const selected = Math.round((22 / 60) * roots * branches);
  const finer = (batch: number, rows: number): number =>
    changes?.all ? Math.min(batch, Math.ceil(rows / cards)) : batch;
  return {
    roots,
    branches,
    steps,
    interval,
    trainedSteps: interval,
    sampleBatch: finer(16, roots * branches),
    decodeBatch: finer(8, roots * branches),
    selected,
    epochs: 2,
    samplesPerUpdate,
    microBatch: finer(4, samplesPerUpdate * interval),
    latentBytes: model.latentBytes,
    parameters: model[weights],
  };
};

/** Seconds of a stage by what they go into. */
export interface CardStage {
  /** One N-th of one card's compute: what nothing can divide better. */
  readonly ideal: number;
  /** What the slowest worker computes beyond that, since batches are whole and small ones do not fill a card. */
  readonly "whole batches": number;
  /** Old log-probs that a worker computes again because another one has trained their pair in the first epoch. */
  readonly "old log-probs": number;
  readonly latents: number;
  readonly scores: number;
  readonly gradients: number;
  /** The trajectories that train, which every worker writes. */
  readonly trajectories: number;
  readonly hash: number;
  /** Of rank 0: weights and optimiser state, and evaluations. */
  readonly record: number;
  readonly evaluation: number;
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

export const secondsOfStage = (stage: CardStage): number => sum(Object.values(stage));

/** Of one epoch. */
const oldLogProbSeconds = ({ model, cards }: Setting, work: StageWork): number =>
  sum(
    pairsOfUpdates({ ...work, epochs: 1 }).map((pairs) => slowestShare(pairs, work.microBatch, cards, model.forward)),
  );

/** Seconds of compute of the slowest card: sampling, scoring and training. */
function computeOf(setting: Setting, work: StageWork, cards: number): number {
  const { model, weights } = setting;
  const { roots, branches, steps, interval, sampleBatch, decodeBatch, microBatch } = work;
  const share = (total: number, batch: number, each: BatchCost): number => slowestShare(total, batch, cards, each);
  const factor = weights === "full" ? assumed.fullOverLora : 1;
  const pair = { row: model.pair.row * factor, floor: model.pair.floor };
  return (
    share(roots, sampleBatch, model.step) * (steps - interval) +
    share(roots * branches, sampleBatch, model.step) * interval +
    share(roots * branches, decodeBatch, model.image) +
    sum(pairsOfUpdates(work).map((pairs) => share(pairs, microBatch, pair))) +
    oldLogProbSeconds({ ...setting, cards }, work)
  );
}

/** Seconds of a broadcast of CPU memory by Gloo's tree: first within nodes, then all workers of a node at once between them. */
export function treeSeconds(cards: number, bytes: number): number {
  const { cardsPerNode, glooCall, glooLatency, loopback, ethernet } = assumed;
  const within = Math.ceil(Math.log2(Math.min(cards, cardsPerNode)));
  const between = Math.ceil(Math.log2(Math.max(1, cards / cardsPerNode)));
  return (
    glooCall + (within + between) * glooLatency + (within / loopback + (between * cardsPerNode) / ethernet) * bytes
  );
}

/** Seconds around Gloo's ring, which leaves a node once. */
const glooRingSeconds = (cards: number, bytes: number): number =>
  assumed.glooCall + (cards - 1) * (assumed.glooLatency + bytes / Math.min(assumed.loopback, assumed.ethernet));

/** Seconds of what each worker gets from one other. */
const glooMoved = (cards: number, bytes: number): number =>
  cards === 1
    ? 0
    : assumed.glooCall +
      bytes * (cards > assumed.cardsPerNode ? assumed.cardsPerNode / assumed.ethernet : 1 / assumed.loopback);

/** Seconds of NCCL's all-gather or all-reduce: rings, or for an all-reduce a tree where that is quicker. */
export function ncclSeconds(name: "allGather" | "allReduce_", cards: number, bytes: number): number {
  if (cards === 1) return 0;
  const { cardsPerNode, nvlink, infiniband, nvlinkLatency, infinibandLatency } = assumed;
  const nodes = Math.ceil(cards / cardsPerNode);
  const { messages, bytes: sent } = trafficOf(name, cards, bytes);
  const hops = nodes === 1 ? messages * nvlinkLatency : messages * ((nvlinkLatency * 7 + infinibandLatency) / 8);
  const tree = 2 * (Math.ceil(Math.log2(nodes)) * infinibandLatency + 3 * nvlinkLatency);
  return (name === "allReduce_" ? Math.min(hops, tree) : hops) + sent / (nodes === 1 ? nvlink : infiniband);
}

/** Of all optimiser steps of a stage. */
function gradientSeconds({ model, cards, changes }: Setting, work: StageWork): number {
  const { parameters, microBatch } = work;
  const updates = pairsOfUpdates(work).length;
  // JSON and its length; as numbers on the card they would be one short all-gather.
  const tallies = updates * (changes?.all ? ncclSeconds("allGather", cards, 32) : 2 * glooRingSeconds(cards, 160));
  if (cards === 1) return 0;
  if (parameters <= MOST_GATHERED) {
    const bytes = 4 * parameters;
    // Exchanged in pieces, of which each worker adds one in the order of ranks and then tells all: the same bits.
    if (changes?.all) return updates * 2 * ncclSeconds("allGather", cards, bytes / cards) + tallies;
    const adding = cards * (assumed.operator + (3 * bytes) / assumed.cardBandwidth);
    return updates * (ncclSeconds("allGather", cards, bytes) + adding) + tallies;
  }
  const buckets = Math.ceil(parameters / BUCKET);
  const bucket = ncclSeconds("allReduce_", cards, (4 * parameters) / buckets);
  const backward = (2 / 3) * Math.max(model.pair.floor, microBatch * model.pair.row * assumed.fullOverLora);
  const each = changes?.afterBackward ? buckets * bucket : overlapped(backward, bucket, buckets) - backward;
  return updates * each + tallies;
}

/** Seconds of a stage on so many cards. */
export function stageOf(setting: Setting): CardStage {
  const { model, weights, cards, changes } = setting;
  const work = workOf(setting);
  const { roots, branches, interval, latentBytes, parameters, selected } = work;
  const isChanged = changes?.all ?? false;
  const sharing = Math.min(cards, assumed.cardsPerNode);
  const one = workOf({ ...setting, cards: 1 });
  const ideal = computeOf(setting, one, 1) / cards;
  const images = roots * branches;
  const trajectory = (interval + 1) * latentBytes;
  // A pair's next epoch is most likely another worker's, which does not know its old log-prob.
  const again = oldLogProbSeconds(setting, work) * (work.epochs - 1) * (1 - 1 / cards);
  const exchanged = collectivesOf(work, cards).sample;
  const moved = (selected / cards) * trajectory;
  const latents = isChanged
    ? glooMoved(cards, moved)
    : sum(exchanged.map(({ count, bytes }) => count * treeSeconds(cards, bytes)));
  const state = weights === "full" ? 12 * parameters : 0;
  // Before and after a run of 100 stages: 16 prompts of two lists, four images of each.
  const evaluation = (2 * 128 * (20 * model.step.row + model.image.row)) / 100;
  const batches = 128 / work.sampleBatch;
  const slowest = isChanged ? 1 / cards : Math.ceil(batches / cards) / batches;
  return {
    ideal,
    "whole batches": computeOf(setting, work, cards) - ideal,
    "old log-probs": isChanged ? 0 : again,
    latents,
    scores: cards === 1 ? 0 : 2 * glooRingSeconds(cards, (20 * images) / cards),
    gradients: gradientSeconds(setting, work),
    // Rank 0 writes all of them.
    trajectories: (isChanged ? moved * sharing : selected * trajectory) / assumed.disk,
    hash: cards === 1 || isChanged ? 0 : (4 * parameters) / assumed.hash,
    record: isChanged ? 0 : state / assumed.disk,
    evaluation: evaluation * slowest,
  };
}

/** Bytes of a stage's samples in the memory of a node, all of whose workers hold all. */
export function samplesInNode(setting: Setting): number {
  const { roots, branches, interval, latentBytes, selected } = workOf(setting);
  const held = (roots * branches + selected) * (interval + 1) * latentBytes;
  return setting.changes?.all
    ? (held * Math.min(setting.cards, assumed.cardsPerNode)) / setting.cards
    : held * Math.min(setting.cards, assumed.cardsPerNode);
}

/** Bytes that gathering the gradients of a LoRA takes on each card: all of them, and c10d's copy. */
export const gatheredOnCard = ({ model, weights, cards, changes }: Setting): number =>
  changes?.all || model[weights] > MOST_GATHERED || cards === 1 ? 0 : 2 * cards * 4 * model[weights];
