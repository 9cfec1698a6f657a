/** What a worker other than rank 0 does: it trains and evaluates along, and writes nothing that lasts. */
import { loadPlugins } from "../b2/plugins.js";
import { hearPlan } from "../b2/workers.js";
import type { RunContext } from "../base/progress.js";
import type { Group } from "../distributed/index.js";
import { Experiment } from "./experiment.js";

/**
 * Takes part in the run that rank 0 has planned, until all of it is done.
 *
 * @throws WorkerError when another worker is lost; whatever training throws
 */
export async function runWorker(workers: Group, context: Partial<RunContext> = {}): Promise<void> {
  const heard = await hearPlan(workers);
  if (heard === undefined) return;
  const { plan, removeFolder } = heard;
  try {
    await loadPlugins(plan.config.plugins);
    const experiment = await Experiment.openPlanned(plan, { ...context, workers });
    try {
      await experiment.run();
    } finally {
      experiment.dispose();
    }
  } finally {
    removeFolder();
  }
}
