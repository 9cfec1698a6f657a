/**
 * Presets: functions that return whole configs. Baselines are settings of the same system (table 1 of the paper's
 * ablation): K branches or one, with selection or without, a growing interval or the whole trajectory.
 */
import type { Config } from "./config.js";
import { resolveConfig } from "./resolve-config.js";

/** The whole trajectory trains from the first stage on. */
const wholeTrajectory = { interval: { first: 20, last: 20 } };
/** One sample a root, all of them train. 1,280 images a stage as with 256 roots of 5 branches. */
const noBranches = { branch: { count: 1 }, select: { mode: "all" }, sample: { rootsPerStage: 1280 } };

/** B2-DiffuRL: branches and progressive training, the reference's defaults. */
export const b2 = (): Config => resolveConfig({});

/** DDPO: neither. */
export const ddpo = (): Config => resolveConfig(noBranches, wholeTrajectory);

/** DDPO with backward progressive training only. */
export const ddpoBpt = (): Config => resolveConfig(noBranches);

/** DDPO with branch-based sampling only. */
export const ddpoBs = (): Config => resolveConfig(wholeTrajectory);

/** B2-DiffuRL on the embedded emoji model, sized for two cores and ten minutes; docs/log.md tells how it was tuned. */
export const demo = (): Config =>
  resolveConfig({
    stages: 40,
    sample: { steps: 10, guidanceScale: 1, rootsPerStage: 96, batchSize: 96 },
    branch: { count: 4 },
    interval: { first: 6, last: 10 },
    lora: { rank: 16 },
    train: { learningRate: 1e-3, epochs: 1, samplesPerUpdate: 48, microBatch: 96 },
  });

/** All presets by the names the command line takes. */
export const presets = { b2, ddpo, "ddpo-bpt": ddpoBpt, "ddpo-bs": ddpoBs, demo } as const;

export type PresetName = keyof typeof presets;

/** One line on each, for help texts. */
export const presetSummaries: Record<PresetName, string> = {
  b2: "B2-DiffuRL: 5 branches, best and worst train, interval grows from 14 to 20 of 20 steps",
  ddpo: "DDPO: one sample a root, all train, the whole trajectory",
  "ddpo-bpt": "DDPO with backward progressive training",
  "ddpo-bs": "DDPO with branch-based sampling",
  demo: "B2-DiffuRL on the embedded model, within ten minutes on two cores",
};
