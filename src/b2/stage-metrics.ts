/** The numbers of a stage; docs/metrics.md has a line for each, and a test sees to it. */
import type { Metrics } from "../runs/index.js";
import { liveTensors } from "../torch/index.js";
import { meanAndDeviation } from "../base/statistics.js";
import type { ScoredBatch, TrainSet } from "./records.js";
import type { UpdateMetrics } from "./update.js";

export interface Seconds {
  sample: number;
  score: number;
  train: number;
}

/** A stage's line of metrics.jsonl; null where there is nothing to average. */
export function stageMetrics(
  { stage, timesteps, rewards }: Pick<ScoredBatch, "stage" | "timesteps" | "rewards">,
  trainSet: TrainSet,
  updates: readonly UpdateMetrics[],
  { branchCount, seconds }: { branchCount: number; seconds: Seconds },
): Metrics {
  const { mean, deviation } = meanAndDeviation(rewards);
  const spreads: number[] = [];
  for (let root = 0; root < rewards.length; root += branchCount) {
    spreads.push(meanAndDeviation(rewards.slice(root, root + branchCount)).deviation);
  }
  const pairs = updates.reduce((sum, update) => sum + update["pairs"]!, 0);
  const average = (name: string): number | null =>
    pairs === 0 ? null : finite(updates.reduce((sum, update) => sum + update[name]! * update["pairs"]!, 0) / pairs);
  const extreme = (of: (...values: number[]) => number, name: string): number | null =>
    updates.length === 0 ? null : finite(of(...updates.map((update) => update[name]!)));
  const positives = trainSet.advantages.filter((a) => a > 0).length;
  const first = updates[0];
  const means = Object.keys(first ?? {}).filter((name) => !notAveraged.has(name));
  return {
    stage,
    trainedSteps: timesteps.length,
    images: rewards.length,
    rewardMean: mean,
    rewardStd: deviation,
    rewardBranchStd: meanAndDeviation(spreads).mean,
    selected: trainSet.keys.length,
    positives,
    negatives: trainSet.keys.length - positives,
    updates: updates.length,
    pairs,
    firstRatioMin: first === undefined ? null : finite(first["ratioMin"]!),
    firstRatioMax: first === undefined ? null : finite(first["ratioMax"]!),
    ratioMin: extreme(Math.min, "ratioMin"),
    ratioMax: extreme(Math.max, "ratioMax"),
    ...Object.fromEntries(means.map((name) => [name, average(name)])),
    secondsSample: seconds.sample,
    secondsScore: seconds.score,
    secondsTrain: seconds.train,
    imagesPerSecond: finite(rewards.length / (seconds.sample + seconds.score)),
    pairsPerSecond: pairs === 0 ? null : finite(pairs / seconds.train),
    liveTensors: liveTensors(),
    residentMegabytes: process.memoryUsage.rss() / 2 ** 20,
  };
}

const notAveraged = new Set(["update", "pairs", "ratioMin", "ratioMax"]);

/** JSON has no NaN and no infinity. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
