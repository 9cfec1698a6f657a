/** One worker of scaling.ts: trains stage by stage, or times collectives alone, and prints its times as JSON. */
import {
  disposeRecord,
  hearPlan,
  planFolder,
  presets,
  resolveConfig,
  tellPlan,
  Trainer,
  withDevice,
} from "../../src/b2/index.js";
import { silent } from "../../src/base/progress.js";
import { groupOfEnvironment, type Group } from "../../src/distributed/index.js";
import { resolveModel } from "../../src/hub/index.js";
import { RewardResources } from "../../src/rewards/index.js";
import { costBetween, NO_COST } from "../../src/runs/index.js";
import { zeros, type Tensor } from "../../src/torch/index.js";
import {
  settings,
  type CollectivesJob,
  type CollectiveTime,
  type Job,
  type Phase,
  type TimedPhase,
  type TimedStage,
  type TrainingJob,
  type TrainingTimes,
} from "./job.js";
import { clock, RecordingGroup } from "./recording-group.js";

async function train(job: TrainingJob, group: Group): Promise<TrainingTimes> {
  const workers = new RecordingGroup(group);
  const config = resolveConfig(presets["demo-b2"], {
    stages: job.stages,
    sample: { ...settings.sample, rootsPerStage: job.roots },
    branch: { count: settings.branches },
    interval: settings.interval,
    advantage: { mode: "branch-centred" },
    select: { positiveThreshold: 0, negativeThreshold: 0 },
    train: { ...settings.train, parameters: job.parameters, learningRate: 1e-6 },
    ...(job.parameters === "full" && { lora: { rank: 4 } }),
    eval: { enabled: false, sheet: 0 },
    record: { images: 0, phases: "never" },
  });
  const planned = workers.rank === 0 ? planFolder(job.folder, config) : undefined;
  if (planned !== undefined) await tellPlan(workers, planned);
  const run = withDevice(planned ?? (await hearPlan(workers))!.plan);
  const resources = new RewardResources(run.device, resolveModel, run.folder);
  const trainer = await Trainer.begin(run, resources, { progress: silent, workers });
  const stages: TimedStage[] = [];
  for (let stage = 0; stage < job.stages; stage++) {
    const timed = await timeStage(trainer, workers, stage);
    if (stage > 0) stages.push(timed);
  }
  const parameters = [...trainer.policy.parameters.values()].reduce((sum, { numel }) => sum + numel, 0);
  const latentBytes = 4 * trainer.policy.latentShape.reduce((product, n) => product * n, 1);
  trainer.dispose();
  return { stages, parameters, latentBytes };
}

async function timeStage(trainer: Trainer, workers: RecordingGroup, stage: number): Promise<TimedStage> {
  const done: Partial<Record<Phase, TimedPhase>> = {};
  const timed = async <T>(phase: Phase, work: () => T | Promise<T>): Promise<T> => {
    const [start, used] = [clock(), process.cpuUsage()];
    const result = await work();
    const { user, system } = process.cpuUsage(used);
    done[phase] = { start, end: clock(), processor: (user + system) / 1e6, operations: workers.take() };
    return result;
  };
  trainer.writer.beginStage(stage);
  await workers.barrier();
  workers.take();
  const before = trainer.spent();
  const branches = await timed("sample", () => trainer.sample(stage));
  const scored = await timed("score", () => trainer.score(branches));
  const trainSet = await timed("select", () => trainer.select(scored));
  const updates = await timed("train", () => trainer.update(trainSet));
  await timed("record", async () => {
    const seconds = { sample: 0, score: 0, train: 0, rewards: scored.rewardSeconds };
    const cost = costBetween(before, trainer.spent());
    trainer.record({ scored, trainSet, updates, seconds, cost: cost ?? NO_COST });
    // What rank 0 writes, the others wait for at their next operation.
    await workers.barrier();
  });
  [trainSet, branches].forEach(disposeRecord);
  return {
    phases: done as Record<Phase, TimedPhase>,
    pairs: updates.reduce((sum, { pairs }) => sum + pairs, 0),
    updates: updates.length,
  };
}

async function timeCollectives({ sizes, milliseconds }: CollectivesJob, group: Group): Promise<CollectiveTime[]> {
  const kinds = {
    broadcast: (tensor: Tensor) => group.broadcast(tensor, 0),
    allGather: async (tensor: Tensor) => (await group.allGather(tensor)).forEach((one) => one.dispose()),
    allReduce_: (tensor: Tensor) => group.allReduce_(tensor),
  };
  const times: CollectiveTime[] = [];
  for (const [name, work] of Object.entries(kinds) as [CollectiveTime["name"], (typeof kinds)["broadcast"]][]) {
    for (const bytes of sizes) {
      const given = zeros([bytes / 4]);
      const once = async (): Promise<number> => {
        await group.barrier();
        const start = performance.now();
        await work(given);
        return (performance.now() - start) / 1000;
      };
      // The workers agree on the number of tries; the first one also makes the connections.
      await once();
      const tries = await group.broadcastJson(
        Math.max(5, Math.min(500, Math.round(milliseconds / 1000 / (await once())))),
      );
      const seconds: number[] = [];
      for (let i = 0; i < tries; i++) seconds.push(await once());
      given.dispose();
      seconds.sort((a, b) => a - b);
      times.push({ name, bytes, seconds: seconds[Math.floor(tries / 2)]!, tries });
    }
  }
  return times;
}

const job = JSON.parse(process.argv[2]!) as Job;
const group = await groupOfEnvironment();
console.log(JSON.stringify(job.kind === "training" ? await train(job, group) : await timeCollectives(job, group)));
await group.close();
