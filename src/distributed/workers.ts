/** What the phases of a stage do with the workers that share them. */
import type { RunContext } from "../base/progress.js";
import { empty, tidy, type Tensor } from "../torch/index.js";
import { SoloGroup, type Group } from "./group.js";
import type { RewardRanks } from "./roles.js";
import type { Share } from "./shares.js";

/** A process without others. */
export const alone: Group = new SoloGroup();

/** A context with the workers that share the work; without them, the process is alone. */
export interface WithWorkers extends RunContext {
  readonly workers?: Group | undefined;
  /** Those that score for them; without, each has its own rewards. */
  readonly rewardRanks?: RewardRanks | undefined;
}

/**
 * Gives every worker the rows that the others have computed, in place.
 *
 * @param tensors [n, ...] each, on the CPU
 * @param shareOfRank which rows a rank has computed
 */
export async function exchangeRows(
  tensors: readonly Tensor[],
  workers: Group,
  shareOfRank: (rank: number) => Share,
): Promise<void> {
  for (let rank = 0; rank < workers.size && workers.size > 1; rank++) {
    const { start, length } = shareOfRank(rank);
    if (length === 0) continue;
    for (const tensor of tensors) {
      const rows = tidy(() => tensor.narrow(0, start, length));
      try {
        await workers.broadcast(rows, rank);
      } finally {
        rows.dispose();
      }
    }
  }
}

/**
 * The rows that all workers have computed, in the order of ranks.
 *
 * @param own those of this worker, float32, each of the same shape; not disposed of
 * @param total how many all have
 * @param shareOfRank which of them a rank has computed; rank 0 at least one
 * @returns [total, ...] on the CPU; the caller disposes of it
 */
export async function gatherRows(
  own: readonly Tensor[],
  total: number,
  workers: Group,
  shareOfRank: (rank: number) => Share,
): Promise<Tensor> {
  const shape = await workers.broadcastJson(own[0]?.shape ?? null);
  if (shape === null) throw new RangeError("Expected a row of rank 0 but received none");
  const all = empty([total, ...shape]);
  const { start } = shareOfRank(workers.rank);
  tidy(() => own.forEach((row, i) => all.select(0, start + i).copy_(row)));
  await exchangeRows([all], workers, shareOfRank);
  return all;
}
