/** One worker of scaling.ts: trains, and prints its times as JSON. */
import { hearPlan, planFolder, presets, resolveConfig, tellPlan, Trainer, withDevice } from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { groupOfEnvironment } from "../src/distributed/index.js";
import { resolveModel } from "../src/hub/index.js";
import { RewardResources } from "../src/rewards/index.js";

/** Of one worker, while it trains. */
export interface WorkerTimes {
  readonly seconds: number;
  readonly processorSeconds: number;
  readonly communicationSeconds: number;
}

const [folder, roots, stages] = process.argv.slice(2) as [string, string, string];
const workers = await groupOfEnvironment();
const config = resolveConfig(presets["demo-b2"], {
  stages: Number(stages),
  sample: { rootsPerStage: Number(roots), batchSize: 6, decodeBatchSize: 6 },
  train: { microBatch: 6 },
  eval: { enabled: false, sheet: 0 },
});
const planned = workers.rank === 0 ? planFolder(folder, config) : undefined;
if (planned !== undefined) await tellPlan(workers, planned);
const plan = planned ?? (await hearPlan(workers))!.plan;
const run = withDevice(plan);
const trainer = await Trainer.begin(run, new RewardResources(run.device, resolveModel, run.folder), {
  progress: silent,
  workers,
});
await workers.barrier();
const [start, cpu, waited] = [performance.now(), process.cpuUsage(), workers.seconds];
await trainer.runAll();
await workers.barrier();
const { user, system } = process.cpuUsage(cpu);
const times: WorkerTimes = {
  seconds: (performance.now() - start) / 1000,
  processorSeconds: (user + system) / 1e6,
  communicationSeconds: workers.seconds - waited,
};
console.log(JSON.stringify(times));
trainer.dispose();
await workers.close();
