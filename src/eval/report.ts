/** Reports of a run for people: a line for every stage, the curve of the reward. */
import type { Config } from "../b2/config/schema.js";
import { figure, lineChart, renderSvg, stylesOf, type Panel } from "../images/index.js";
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

const CURVE_TITLE = "Mean reward of a stage's images";

/**
 * The mean reward of every stage so far with its standard error, as PNG; of several rewards their weighted sum, and beside
 * it each on its own, since their scales differ.
 */
export function rewardCurve(metrics: readonly StageMetrics[]): Uint8Array {
  const labels = Object.keys(metrics.at(-1)?.rewards ?? {});
  if (labels.length > 1) return rewardPanels(metrics, labels);
  const reward = {
    name: "reward",
    values: metrics.map(({ rewardMean }) => rewardMean),
    spread: metrics.map(({ rewardStd, images }) => rewardStd / Math.sqrt(images)),
  };
  return lineChart([reward], { title: CURVE_TITLE, xLabel: "stage" });
}

function rewardPanels(metrics: readonly StageMetrics[], labels: readonly string[]): Uint8Array {
  const sum = panelOf("weighted sum", metrics, ({ rewardMean, rewardStd }) => ({ mean: rewardMean, std: rewardStd }));
  const own = labels.map((label) => panelOf(label, metrics, ({ rewards }) => rewards[label]));
  const options = { title: CURVE_TITLE, yLabel: "mean reward", panelWidth: 340, sharedY: false, legend: false };
  return renderSvg(figure([sum, ...own], stylesOf(["reward"]), options));
}

/** @param of undefined for a stage that has not this reward */
function panelOf(
  title: string,
  metrics: readonly StageMetrics[],
  of: (stage: StageMetrics) => { readonly mean: number; readonly std?: number } | undefined,
): Panel {
  const line = metrics.flatMap((stage) => {
    const { mean, std } = of(stage) ?? {};
    if (mean === undefined) return [];
    const error = (std ?? 0) / Math.sqrt(stage.images);
    return [{ x: stage.stage, y: mean, yLow: mean - error, yHigh: mean + error }];
  });
  return { title, xLabel: "stage", series: [{ style: 0, line, band: true }] };
}
