/** Assigns the (sample, timestep) pairs of a stage to optimiser steps. */
import { chunks } from "../../base/chunks.js";
import { permutation } from "../../base/philox.js";
import type { Config } from "../config/schema.js";
import type { Item, ObjectiveKind } from "../objectives/index.js";
import type { TrainSet } from "../records.js";

/** An item at one of its trained timesteps. */
export interface Pair {
  readonly item: Item;
  /** Index among the trained timesteps. */
  readonly step: number;
  readonly epoch: number;
}

/** Pairs that pass through the denoiser together. */
export type MicroBatch = readonly Pair[];

/** A row of a micro-batch. */
export interface Row {
  /** Index into the train set. */
  readonly row: number;
  readonly step: number;
  readonly epoch: number;
}

/** The rows of a micro-batch: all items' first members, then all second ones. */
export function rowsOf(pairs: MicroBatch): Row[] {
  return pairs[0]!.item.flatMap((_, member) =>
    pairs.map(({ item, step, epoch }) => ({ row: item[member]!, step, epoch })),
  );
}

/**
 * The micro-batches of each optimiser step. Every epoch visits all items in a new order, each with its timesteps in a
 * new order, of which it takes the first `timestepFraction`. An optimiser step may span two epochs.
 */
export function planUpdates(
  trainSet: TrainSet,
  { items: itemsOf, itemSize = 1 }: Pick<ObjectiveKind, "items" | "itemSize">,
  { seed, train }: Pick<Config, "seed" | "train">,
): MicroBatch[][] {
  const items = itemsOf === undefined ? trainSet.keys.map((_, row) => [row]) : itemsOf(trainSet);
  const s = trainSet.timesteps.length;
  const kept = Math.max(1, Math.round(train.timestepFraction * s));
  const address = { seed, stage: trainSet.stage, branch: 0 };
  const stream: Pair[][] = [];
  for (let epoch = 0; epoch < train.epochs; epoch++) {
    const order = permutation(items.length, { ...address, stream: "shuffle", root: 0, step: epoch });
    for (const index of order) {
      const item = items[index]!;
      const steps = permutation(s, { ...address, stream: "timesteps", root: index, step: epoch });
      stream.push([...steps.subarray(0, kept)].map((step) => ({ item, step, epoch })));
    }
  }
  const itemsPerUpdate = Math.max(1, Math.floor(train.samplesPerUpdate / itemSize));
  return cut(stream, itemsPerUpdate).map((some) => cut(some.flat(), train.microBatch));
}

/** A list in pieces of at most `size`. */
const cut = <T>(list: readonly T[], size: number): T[][] =>
  [...chunks(list.length, size)].map(([start, length]) => list.slice(start, start + length));
