/** What a worker other than rank 0 does: it trains and evaluates along, or scores, and writes nothing that lasts. */
import { loadPlugins } from "../b2/plugins.js";
import { runRewardRank } from "../b2/reward-rank.js";
import { hearPlan } from "../b2/workers.js";
import { silent, type RunContext } from "../base/progress.js";
import type { Roles } from "../distributed/index.js";
import { Experiment } from "./experiment.js";

/**
 * Takes part in the run that rank 0 has planned, until all of it is done.
 *
 * @throws WorkerError when another worker is lost; whatever training throws
 */
export async function runWorker(
  { all, training, rewardRanks }: Roles,
  { progress = silent, signal }: Partial<RunContext> = {},
): Promise<void> {
  const heard = await hearPlan(all);
  if (heard === undefined) return;
  const { plan, runFolder, removeFolder } = heard;
  try {
    await loadPlugins(plan.config.plugins);
    if (training === undefined) {
      await runRewardRank(all, plan, runFolder, { progress, signal });
      return;
    }
    const experiment = await Experiment.openPlanned(plan, { progress, signal, workers: training, rewardRanks });
    try {
      await experiment.run();
    } finally {
      experiment.dispose();
    }
  } finally {
    removeFolder();
  }
}
