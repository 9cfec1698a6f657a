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

/** Six prompts of each template of the embedded world, none of them held out. */
const demoPrompts = [
  ...["a cat riding a bike", "a dog riding a bike", "a panda playing chess", "a frog playing chess"],
  ...["a fox washing dishes", "a koala washing dishes"],
  ...["blue banana", "green strawberry", "purple pear", "red lemon", "pink apple", "black cherry"],
  ...["cat on the right of house", "car on the left of mushroom", "rocket on the right of ball"],
  ...["star on house", "guitar on chair", "dog under umbrella"],
];

/**
 * B2-DiffuRL on the embedded emoji model, sized for two cores and ten minutes; docs/log.md tells how it was tuned.
 *
 * The clip range is 0.15 for a log-prob that were the sum over the 512 latent dimensions, where it is their mean: it is
 * what keeps a high learning rate from running away.
 */
export const demo = (): Config =>
  resolveConfig({
    stages: 50,
    prompts: { train: demoPrompts, order: "in-turn" },
    sample: { steps: 10, guidanceScale: 1, rootsPerStage: 36, batchSize: 144 },
    branch: { count: 4 },
    interval: { first: 9, last: 10, skipLast: 4 },
    reward: { batchSize: 144 },
    select: { positiveThreshold: 0.3, negativeThreshold: -0.3 },
    train: { learningRate: 3e-3, epochs: 1, samplesPerUpdate: 20, microBatch: 128, clipRange: 3e-4 },
    eval: { imagesPerPrompt: 8, maxPrompts: 36 },
  });

/** CLIP ViT-H-14 of LAION, the paper's reward. */
const clipH = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K";

/**
 * B2-DiffuRL on Stable Diffusion at full size: the reference's hyperparameters, its model and its reward by their names on
 * the hub, and batches and precision for one graphics card. Prompts are the embedded lists, which are the paper's three
 * templates, unless others are given.
 */
export const sd = (): Config =>
  resolveConfig({
    model: { path: "CompVis/stable-diffusion-v1-4", dtype: "bfloat16", device: "cuda" },
    sample: { batchSize: 16 },
    reward: { model: clipH, batchSize: 8 },
    train: { microBatch: 4, gradientCheckpointing: true },
    eval: { clip: clipH, truth: "none", maxPrompts: 16 },
  });

/** All presets by the names the command line takes. */
export const presets = { b2, ddpo, "ddpo-bpt": ddpoBpt, "ddpo-bs": ddpoBs, sd, demo } as const;

export type PresetName = keyof typeof presets;

/** One line on each, for help texts. */
export const presetSummaries: Record<PresetName, string> = {
  b2: "B2-DiffuRL: 5 branches, best and worst train, interval grows from 14 to 20 of 20 steps",
  ddpo: "DDPO: one sample a root, all train, the whole trajectory",
  "ddpo-bpt": "DDPO with backward progressive training",
  "ddpo-bs": "DDPO with branch-based sampling",
  sd: "B2-DiffuRL on Stable Diffusion at full size, model and reward from the hub, for a graphics card",
  demo: "B2-DiffuRL on the embedded model, within ten minutes on two cores",
};
