/** What several workers have come to that each score a part of the images: the failure of one is that of all. */
import type { Group } from "../../distributed/index.js";
import { RewardError, type RewardSet } from "../../rewards/index.js";

type Outcome<T> = { readonly error: string } | { readonly result: T };

/**
 * Does this worker's part and tells the others of it.
 *
 * @param work returns what JSON can hold
 * @returns the results of all workers, in the order of ranks
 * @throws RewardError if the rewards of another worker have failed, with its rank; whatever `work` throws
 */
export async function shareOutcomes<T>(workers: Group, work: () => Promise<T>): Promise<T[]> {
  if (workers.size === 1) return [await work()];
  let result: T;
  try {
    result = await work();
  } catch (error) {
    // Of other errors the others are told when this worker stops.
    if (error instanceof RewardError) await workers.allGatherJson<Outcome<T>>({ error: error.message });
    throw error;
  }
  const all = await workers.allGatherJson<Outcome<T>>({ result });
  return all.map((outcome, rank) => {
    if ("error" in outcome) throw new RewardError(`rank ${rank}: ${outcome.error}`);
    return outcome.result;
  });
}

/**
 * Tells rewards that all images of a stage, or of an evaluation's list, are scored: rank 0 does, once.
 *
 * @param what `judges`: whether they were asked too
 * @throws RewardError of a reward whose scores are not there yet, on all workers
 */
export async function completeRewards(
  rewards: RewardSet,
  workers: Group,
  what: { readonly judges?: boolean } = {},
): Promise<void> {
  if (workers.size === 1) return rewards.complete(what);
  if (workers.rank > 0) {
    const said = await workers.broadcastJson<string | null>(null);
    if (said !== null) throw new RewardError(`rank 0: ${said}`);
    return;
  }
  try {
    await rewards.complete(what);
  } catch (error) {
    if (error instanceof RewardError) await workers.broadcastJson(error.message);
    throw error;
  }
  await workers.broadcastJson(null);
}
