/**
 * What each worker does: the first train, and the last may do nothing but score images for them (`--reward-ranks`). All
 * are one group, so that whoever is lost is noticed by all; those that train also are a group of their own.
 */
import { InputError } from "../base/errors.js";
import { WorkerError } from "./error.js";
import type { Group } from "./group.js";

/** The reward ranks, seen from a worker that trains. */
export interface RewardRanks {
  /** All workers. */
  readonly all: Group;
  readonly ranks: readonly number[];
  /** Those among them that score for this worker. */
  readonly own: readonly number[];
}

/** This worker's part. */
export interface Roles {
  /** All workers. */
  readonly all: Group;
  /** Those that train; undefined for a worker that scores. */
  readonly training: Group | undefined;
  /** Undefined where each worker has its own rewards, and for a worker that scores. */
  readonly rewardRanks: RewardRanks | undefined;
}

/**
 * Agrees on who does what. To be called by all workers.
 *
 * @param count of the reward ranks, the last ones
 * @throws InputError when none is left to train; WorkerError when another worker has another count
 */
export async function assignRoles(all: Group, count: number): Promise<Roles> {
  const counts = await all.allGatherJson(count);
  const other = counts.findIndex((one) => one !== counts[0]);
  if (other > 0) {
    throw new WorkerError(
      `Expected the same --reward-ranks for all workers but received ${counts[0]} for rank 0 and ${counts[other]} for rank ${other}`,
    );
  }
  if (count >= all.size) {
    throw new InputError(
      `Expected fewer reward ranks than workers, of which there ${all.size === 1 ? "is 1" : `are ${all.size}`}, but received --reward-ranks ${count}`,
    );
  }
  if (count === 0) return { all, training: all, rewardRanks: undefined };
  const size = all.size - count;
  if (all.rank >= size) return { all, training: undefined, rewardRanks: undefined };
  const ranks = Array.from({ length: count }, (_, i) => size + i);
  const own = rewardRanksOf(all.rank, size, count).map((i) => ranks[i]!);
  return { all, training: await all.part(size), rewardRanks: { all, ranks, own } };
}

/**
 * Which of `count` reward ranks score for one of `size` workers that train. With fewer of them than workers each serves
 * several workers; with more each serves one.
 */
export const rewardRanksOf = (rank: number, size: number, count: number): number[] =>
  count <= size ? [rank % count] : Array.from({ length: count }, (_, i) => i).filter((i) => i % size === rank);
