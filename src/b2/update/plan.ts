/** Assigns the (sample, timestep) pairs of a stage to optimiser steps. */
import { chunks } from "../../base/chunks.js";
import { permutation } from "../../base/philox.js";
import type { Config } from "../config/schema.js";
import type { Item, ObjectiveKind } from "../objectives/index.js";
import type { TrainSet } from "../records.js";
import type { DrawTimesteps, TrainedTimestep } from "./timesteps.js";

/** An item at one of its trained timesteps. */
export interface Pair extends TrainedTimestep {
  readonly item: Item;
}

/** Pairs that pass through the denoiser together. */
export type MicroBatch = readonly Pair[];

/** A row of a micro-batch. */
export interface Row extends TrainedTimestep {
  /** Index into the train set. */
  readonly row: number;
}

/** The rows of a micro-batch: all items' first members, then all second ones. */
export function rowsOf(pairs: MicroBatch): Row[] {
  return pairs[0]!.item.flatMap((_, member) =>
    pairs.map(({ item, ...trained }) => ({ row: item[member]!, ...trained })),
  );
}

/** The items of a train set: those that the objective makes, or each row alone. */
export const itemsOf = (trainSet: TrainSet, objective: Pick<ObjectiveKind, "items">): Item[] =>
  objective.items?.(trainSet) ?? trainSet.keys.map((_, row) => [row]);

/**
 * The micro-batches of each optimiser step. Every epoch visits all items in a new order, each with timesteps drawn anew.
 * An optimiser step may span two epochs.
 */
export function planUpdates(
  trainSet: TrainSet,
  objective: Pick<ObjectiveKind, "items" | "itemSize">,
  { seed, train }: Pick<Config, "seed" | "train">,
  drawTimesteps: DrawTimesteps,
): MicroBatch[][] {
  const items = itemsOf(trainSet, objective);
  const stream: Pair[][] = [];
  for (let epoch = 0; epoch < train.epochs; epoch++) {
    const address = { seed, stage: trainSet.stage, stream: "shuffle", root: 0, branch: 0, step: epoch } as const;
    const order = permutation(items.length, address);
    for (const index of order) {
      const item = items[index]!;
      const trained = drawTimesteps({ index, first: trainSet.keys[item[0]!]!, epoch });
      if (trained.length > 0) stream.push(trained.map((each) => ({ item, ...each })));
    }
  }
  const itemsPerUpdate = Math.max(1, Math.floor(train.samplesPerUpdate / (objective.itemSize ?? 1)));
  return cut(stream, itemsPerUpdate).map((some) => cut(some.flat(), train.microBatch));
}

/** The micro-batches of an optimiser step, none larger than `size`: the same ones if none is. */
export const recut = (microBatches: readonly MicroBatch[], size: number): readonly MicroBatch[] =>
  microBatches.every(({ length }) => length <= size) ? microBatches : cut(microBatches.flat(), size);

/** A list in pieces of at most `size`. */
const cut = <T>(list: readonly T[], size: number): T[][] =>
  [...chunks(list.length, size)].map(([start, length]) => list.slice(start, start + length));
