/** What a worker other than rank 0 does: it trains along, and writes nothing that lasts. */
import { silent, type RunContext } from "../base/progress.js";
import type { Group } from "../distributed/index.js";
import { resolveModel } from "../hub/index.js";
import { RewardResources } from "../rewards/index.js";
import { fetchModels } from "./models.js";
import { loadPlugins } from "./plugins.js";
import { withDevice } from "./run-plan.js";
import { Trainer } from "./trainer.js";
import { hearPlan } from "./workers.js";

/**
 * Takes part in the run that rank 0 has planned, until all its stages are finished.
 *
 * @throws WorkerError when another worker is lost; whatever training throws
 */
export async function runWorker(
  workers: Group,
  { progress = silent, signal }: Partial<RunContext> = {},
): Promise<void> {
  const heard = await hearPlan(workers);
  if (heard === undefined) return;
  const { plan, removeFolder } = heard;
  const context = { progress, signal, workers };
  try {
    await loadPlugins(plan.config.plugins);
    const planned = withDevice(plan);
    // Rank 0 downloads what is missing first: workers of one host share its cache.
    await workers.barrier();
    await fetchModels(plan.config, { rewards: true }, context);
    const resources = new RewardResources(planned.device, resolveModel, plan.folder);
    const trainer = await Trainer.begin(planned, resources, context);
    try {
      await trainer.runAll();
    } finally {
      trainer.dispose();
    }
  } finally {
    removeFolder();
  }
}
