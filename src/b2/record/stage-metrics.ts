/** The numbers of a stage; docs/metrics.md has a line for each, which a test checks. */
import { meanAndDeviation } from "../../base/statistics.js";
import type { Cost, PhaseSeconds, StageMetrics, UpdateMetrics } from "../../runs/index.js";
import { liveTensors } from "../../torch/index.js";
import type { ScoredBatch, TrainSet } from "../records.js";

/** What a stage's metrics are computed from. */
export interface StageOutcome {
  readonly scored: Pick<ScoredBatch, "stage" | "keys" | "rewards" | "parts">;
  readonly trainedSteps: number;
  readonly trainSet: Pick<TrainSet, "keys" | "advantages">;
  readonly updates: readonly UpdateMetrics[];
  /** Of the weights' moving average from them; null without one. */
  readonly emaDistance: number | null;
  /** How many roots were to be sampled; some may have been left out. */
  readonly roots: number;
  readonly branchCount: number;
  readonly halvedBatches: StageMetrics["halvedBatches"];
  readonly seconds: PhaseSeconds;
  /** The most that tensors took on an accelerator; null on the CPU, and where nobody counts. */
  readonly deviceBytes: number | null;
  /** Of all stages so far; null if an earlier one's is unknown. */
  readonly cost: Cost | null;
}

/** A stage's line of metrics.jsonl; null where there is nothing to average. */
export function stageMetrics(outcome: StageOutcome): StageMetrics {
  const { scored, trainedSteps, trainSet, updates, emaDistance, roots, branchCount } = outcome;
  const { halvedBatches, seconds, deviceBytes, cost } = outcome;
  const { stage, rewards } = scored;
  const { mean, deviation } = meanAndDeviation(rewards);
  const spreads: number[] = [];
  for (let root = 0; root < rewards.length; root += branchCount) {
    spreads.push(meanAndDeviation(rewards.slice(root, root + branchCount)).deviation);
  }
  const groups = groupedByPrompt(scored);
  const pairs = updates.reduce((sum, update) => sum + update.pairs, 0);
  const average = (of: (update: UpdateMetrics) => number): number | null =>
    pairs === 0 ? null : finite(updates.reduce((sum, update) => sum + of(update) * update.pairs, 0) / pairs);
  const extreme = (of: (...values: number[]) => number, values: readonly (number | null)[]): number | null => {
    const known = values.filter((value) => value !== null);
    return known.length === 0 ? null : finite(of(...known));
  };
  const positives = trainSet.advantages.filter((a) => a > 0).length;
  const [first] = updates;
  return {
    stage,
    trainedSteps,
    images: rewards.length,
    rewardMean: mean,
    rewardStd: deviation,
    rewardBranchStd: meanAndDeviation(spreads).mean,
    promptGroups: groups.length,
    flatGroups: groups.filter((group) => group.every((reward) => reward === group[0])).length,
    rewards: Object.fromEntries(
      Object.entries(scored.parts).map(([label, values]) => {
        const { mean, deviation: std } = meanAndDeviation(values);
        return [label, { mean, std, seconds: seconds.rewards[label] ?? 0 }];
      }),
    ),
    selected: trainSet.keys.length,
    positives,
    negatives: trainSet.keys.length - positives,
    updates: updates.length,
    pairs,
    firstRatioMin: extreme(Math.min, [first?.ratioMin ?? null]),
    firstRatioMax: extreme(Math.max, [first?.ratioMax ?? null]),
    ratioMin: extreme(
      Math.min,
      updates.map(({ ratioMin }) => ratioMin),
    ),
    ratioMax: extreme(
      Math.max,
      updates.map(({ ratioMax }) => ratioMax),
    ),
    loss: average(({ loss }) => loss),
    gradNorm: average(({ gradNorm }) => gradNorm),
    lossScale: average(({ lossScale }) => lossScale),
    skipped: average(({ skipped }) => skipped),
    notFiniteSteps: updates.filter(({ notFinite }) => notFinite !== undefined).length,
    notFiniteRoots: roots - rewards.length / branchCount,
    halvedBatches,
    emaDistance: emaDistance === null ? null : finite(emaDistance),
    objective: Object.fromEntries(
      Object.keys(first?.objective ?? {}).map((name) => [name, average(({ objective }) => objective[name] ?? NaN)]),
    ),
    secondsSample: seconds.sample,
    secondsScore: seconds.score,
    secondsTrain: seconds.train,
    cost,
    imagesPerSecond: finite(rewards.length / (seconds.sample + seconds.score)),
    pairsPerSecond: pairs === 0 ? null : finite(pairs / seconds.train),
    liveTensors: liveTensors(),
    residentMegabytes: process.memoryUsage.rss() / 2 ** 20,
    deviceMegabytes: deviceBytes === null ? null : deviceBytes / 2 ** 20,
  };
}

/** The rewards of each prompt that has several images. */
function groupedByPrompt({ keys, rewards }: StageOutcome["scored"]): number[][] {
  const groups = new Map<string, number[]>();
  keys.forEach(({ prompt }, i) => groups.set(prompt, [...(groups.get(prompt) ?? []), rewards[i]!]));
  return [...groups.values()].filter((group) => group.length > 1);
}

/** JSON has no NaN and no infinity. */
const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
