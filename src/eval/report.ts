/** Reports of a run for people: a line for every stage, the curve of the reward. */
import type { Config } from "../b2/config/schema.js";
import { lineChart } from "../images/index.js";
import type { StageMetrics } from "../runs/index.js";

/** A stage's number, which counts from 0 as its folder does, and how many stages that makes: "stage 0 (1/6)". */
export const stageName = (stage: number, { stages }: Pick<Config, "stages">): string =>
  `stage ${stage} (${stage + 1}/${stages})`;

/** A finished stage in one line. */
export function stageLine(metrics: StageMetrics, config: Pick<Config, "stages">): string {
  const number = (value: number | null, digits: number): string => (value === null ? "-" : value.toFixed(digits));
  const seconds = metrics.secondsSample + metrics.secondsScore + metrics.secondsTrain;
  const parts = Object.entries(metrics.rewards);
  return [
    stageName(metrics.stage, config),
    `reward ${number(metrics.rewardMean, 4)}`,
    ...(parts.length > 1 ? [parts.map(([label, { mean }]) => `${label} ${number(mean, 4)}`).join(", ")] : []),
    `last ${metrics.trainedSteps} steps`,
    `${metrics.selected} of ${metrics.images} train`,
    `${metrics.updates} updates`,
    `ratio ${number(metrics.ratioMin, 3)} to ${number(metrics.ratioMax, 3)}`,
    `${seconds.toFixed(1)} s`,
  ].join("  ");
}

/** The mean reward of every stage so far with its standard error, as PNG. */
export function rewardCurve(metrics: readonly StageMetrics[]): Uint8Array {
  const reward = {
    name: "reward",
    values: metrics.map(({ rewardMean }) => rewardMean),
    spread: metrics.map(({ rewardStd, images }) => rewardStd / Math.sqrt(images)),
  };
  return lineChart([reward], { title: "Mean reward of a stage's images", xLabel: "stage" });
}
