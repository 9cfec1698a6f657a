/** What the phases of a stage do with the workers that share them. */
import type { RunContext } from "../base/progress.js";
import { tidy, type Tensor } from "../torch/index.js";
import { SoloGroup, type Group } from "./group.js";
import type { Share } from "./shares.js";

/** A process without others. */
export const alone: Group = new SoloGroup();

/** A context with the workers that share the work; without them, the process is alone. */
export interface WithWorkers extends RunContext {
  readonly workers?: Group | undefined;
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
