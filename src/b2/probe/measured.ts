/** `interval.mode` "measured": the trained interval follows what probes of the policy say, as training goes on. */
import { warn, type Progress, type RunContext } from "../../base/progress.js";
import type { RewardSet } from "../../rewards/index.js";
import type { IntervalMeasurement } from "../../runs/index.js";
import type { Config } from "../config/schema.js";
import type { Policy } from "../policy/policy.js";
import type { PromptLists } from "../rollout/prompts.js";
import { trainedSteps } from "../rollout/schedule.js";
import { probeCost, probeRoots, type ProbeCost, type ProbedRoot } from "./branching.js";
import { evenSplits, promptsOfRoots, proposeInterval } from "./propose.js";
import { measureShares } from "./shares.js";

/** Whether the interval is measured before a stage. */
export const isMeasured = (stage: number, { mode, every }: Config["interval"]): boolean =>
  mode === "measured" && (stage === 0 || (every > 0 && stage % every === 0));

/** The work of all measurements of a training. */
export function measuringCost({ interval, sample, stages }: Pick<Config, "interval" | "sample" | "stages">): ProbeCost {
  const times = Array.from({ length: stages }, (_, stage) => stage).filter((stage) => isMeasured(stage, interval));
  const { roots, branches, splits } = interval;
  const { steps, images } = probeCost({ roots, branches, splits: evenSplits(sample.steps, splits) });
  return { steps: times.length * steps, images: times.length * images };
}

/**
 * Probes the policy as it is before a stage.
 *
 * @param prompts the training prompts
 * @returns the proposal, and what it rests on
 */
export async function measureInterval(
  policy: Policy,
  rewards: RewardSet,
  prompts: readonly string[],
  stage: number,
  config: Pick<Config, "seed" | "sample" | "interval">,
  context: RunContext & { readonly metadata?: PromptLists["metadata"] },
): Promise<Omit<IntervalMeasurement, "cost">> {
  const { roots, branches, splits } = config.interval;
  const plan = {
    stage,
    prompts: promptsOfRoots(prompts, roots),
    splits: evenSplits(config.sample.steps, splits),
    branches,
  };
  const probed: ProbedRoot[] = [];
  for await (const some of probeRoots(policy, rewards, plan, config, context)) probed.push(...some);
  const { shares } = measureShares(probed, "reward", plan.splits);
  return { stage, ...proposeInterval(shares), shares };
}

/**
 * Steps at the end of a trajectory that a stage branches and trains.
 *
 * From a measurement on, the interval grows as `trainedSteps` says, from its `first` to its `last` over what is left of
 * `stages`. It never shrinks: where a later measurement proposes less than is trained already, it begins from there. It
 * is always longer than the steps that are not trained.
 *
 * @param measurements in order of their stages, the first before stage 0; those after `stage` do not count
 */
export function measuredSteps(
  stage: number,
  measurements: readonly IntervalMeasurement[],
  { stages, skipLast }: { readonly stages: number; readonly skipLast: number },
): number {
  let least = skipLast + 1;
  let steps = least;
  measurements.forEach((measurement, i) => {
    if (measurement.stage > stage) return;
    const next = measurements[i + 1]?.stage ?? Infinity;
    const first = Math.max(measurement.first, least);
    const last = Math.max(measurement.last, first);
    const at = Math.min(stage, next - 1) - measurement.stage;
    steps = trainedSteps(at, { first, last, stages: stages - measurement.stage });
    least = steps;
  });
  return steps;
}

/** Reports a measurement in a line, or warns that there was nothing to measure. */
export function reportMeasurement(
  { stage, first, last, shares }: Omit<IntervalMeasurement, "cost">,
  progress: Progress,
): void {
  const begun = shares.find(({ steps }) => steps === first);
  const whole = shares.at(-1)!.steps;
  if (begun?.share === null || begun === undefined) {
    const text =
      `before stage ${stage} all images of a prompt have the same reward, so that nothing can be learnt; ` +
      "the interval is the whole trajectory";
    warn(progress, { kind: "flat-interval", text, stages: stage });
    return;
  }
  const decide = `the last ${first} of ${whole} steps decide ${Math.round(100 * begun.share)}% of the reward's variance`;
  progress.log(`before stage ${stage} ${decide}; the interval grows from there to ${last}`);
}
