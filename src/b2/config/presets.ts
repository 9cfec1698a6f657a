/**
 * Presets: partial configs that can be combined, so that `--preset sd --preset ddpo` is DDPO on Stable Diffusion.
 * Baselines are settings of the same system (table 1 of the paper's ablation): K branches or one, with selection or
 * without, a growing interval or the whole trajectory.
 */
import type { ConfigInput } from "./schema.js";

/** Every stage trains the whole trajectory. */
const WHOLE_TRAJECTORY = { interval: { first: null, last: null } } as const;

/** One sample per root, and all samples train. 1,280 images a stage, as with 256 roots of 5 branches. */
const NO_BRANCHES = { branch: { count: 1 }, select: { mode: "all" }, sample: { rootsPerStage: 1280 } } as const;

/** Learning from final latents, at two of the sampler's timesteps an epoch. */
const FORWARD = { name: "forward", beta: 0.1, timesteps: 2 } as const;

/** Inside the interval of every preset. */
const HALFWAY = [{ at: 6, count: 2 }];

/** The embedded world's combined scenes (docs/world.md), and what fits two cores. */
const EMOJI = {
  prompts: { train: "emoji:train/combined", heldOut: "emoji:held-out/combined", order: "in-turn" },
  sample: { steps: 10, guidanceScale: 1, batchSize: 144, decodeBatchSize: 144 },
  lora: { rank: 16 },
  eval: { imagesPerPrompt: 8, maxPrompts: 36, sheet: 8, sheetImages: 4 },
} as const satisfies ConfigInput;

/** 18 prompts a stage, 8 images each from noise of their own. */
const EMOJI_GROUPS = {
  ...EMOJI,
  sample: { ...EMOJI.sample, rootsPerStage: 144, rootsPerPrompt: 8 },
  branch: { count: 1 },
  select: { mode: "all" },
} as const satisfies ConfigInput;

/**
 * For policy gradients on the embedded model. `clipRange` 3e-4 applies to mean log-probs; over 512 latent dimensions it
 * equals a PPO clip of about 0.15. `skipLast` leaves out steps whose noise drowns the gradient (docs/log.md).
 */
const EMOJI_PPO = {
  objective: { name: "ppo", clipRange: 3e-4 },
  train: { learningRate: 3e-3, epochs: 1, microBatch: 128 },
} as const satisfies ConfigInput;

/** CLIP ViT-H-14 of LAION, the paper's reward. */
const CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K";

/** All presets, by their names on the command line. */
export const presets = {
  /** B2-DiffuRL: branches and progressive training, the reference's defaults. */
  b2: {},

  /** DDPO: neither branches nor progressive training. */
  ddpo: { ...NO_BRANCHES, ...WHOLE_TRAJECTORY },

  /** DDPO with backward progressive training only. */
  "ddpo-bpt": NO_BRANCHES,

  /** DDPO with branch-based sampling only. */
  "ddpo-bs": WHOLE_TRAJECTORY,

  /** Groups of 8 images of a prompt, which the forward objective learns from (DiffusionNFT's beta). */
  forward: {
    ...WHOLE_TRAJECTORY,
    branch: { count: 1 },
    select: { mode: "all" },
    sample: { rootsPerPrompt: 8 },
    objective: FORWARD,
  },

  /** Advantages that compare the branches of a root with each other. */
  "branch-centred": { advantage: { mode: "branch-centred" } },

  /** GRPO's advantages: z-scores among a prompt's images of one stage, without history. */
  "group-relative": { advantage: { mode: "group-relative" } },

  /** Steps count by how far they move the latents. */
  "step-weights": { train: { stepWeights: "change" } },

  /** Each root is a tree: two branches, which both divide again where 6 steps are left. Four images a root. */
  tree: { branch: { count: 2, splits: HALFWAY } },

  /** The strongest trajectories of the last three stages train again, one for every two new ones. */
  replay: { replay: { stages: 3, share: 0.5 } },

  /** Noise only in the trained steps, as in MixGRPO (arXiv 2507.21802). */
  window: { sample: { noise: "interval" } },

  /**
   * A clip that bites: mean log-probs move by little, so ratios rarely leave the reference's 0.9 .. 1.1. ddpo-pytorch,
   * flow_grpo and DanceGRPO have 1e-4 on Stable Diffusion.
   */
  "tight-clip": { objective: { clipRange: 1e-4 } },

  /**
   * DDPO with the numbers of ddpo-pytorch for Stable Diffusion (its `aesthetic` config, on 8 GPUs): half of its 256
   * images an update, statistics of a prompt over its last 32 images.
   */
  "ddpo-pytorch": {
    ...WHOLE_TRAJECTORY,
    ...NO_BRANCHES,
    stages: 200,
    sample: { steps: 50, guidanceScale: 5, rootsPerStage: 256 },
    advantage: { historyStages: 50, historyImages: 32, minImages: 16, clip: 5 },
    objective: { clipRange: 1e-4 },
    train: { learningRate: 3e-4, epochs: 1, samplesPerUpdate: 128 },
  },

  /**
   * Stable Diffusion at full size: the reference's model, reward and prompts (its three templates), the first two by
   * their names on the hub, and batches and precision for one GPU of 24 GB.
   */
  sd: {
    model: { path: "CompVis/stable-diffusion-v1-4", dtype: "bfloat16", device: "cuda" },
    prompts: { train: "paper:train", heldOut: "paper:test" },
    sample: { batchSize: 16, decodeBatchSize: 8 },
    rewards: [{ name: "clip-score", model: CLIP_H }],
    train: { microBatch: 4, gradientCheckpointing: true },
    eval: { clip: CLIP_H, truth: "none", maxPrompts: 16 },
  },

  /**
   * Stable Diffusion 3.5 medium with flow_grpo's numbers (its config `pickscore_sd3`): GRPO in groups of 24 images of
   * 48 prompts, Flow-SDE, two updates an epoch, all but the last step; T5 reads 128 tokens and the LoRA has rank 32 and
   * alpha 64, as in its train_sd3.py. Its moving average of 0.9 is taken every 8 updates; here 0.987 at every one. It is
   * evaluated in 40 steps (its `eval_num_steps`) without noise (`noise_level=0` in its train_sd3.py).
   *
   * Departures: advantages are divided by the deviation of a prompt's images, not by that of all. At these batches 24 images
   * took 8.7 GB of a GPU without T5 (docs/benchmarks.md); the estimate is 12 GB, and 15 GB while T5 encodes prompts
   * (docs/memory.md), so that a GPU of 24 GB does.
   */
  sd3: {
    model: {
      path: "stabilityai/stable-diffusion-3.5-medium",
      dtype: "bfloat16",
      device: "cuda",
      height: 512,
      width: 512,
      offload: true,
      options: { maxSequenceLength: 128 },
    },
    scheduler: { name: "flow-match", noise: "flow-sde", eta: 0.7 },
    prompts: { train: "paper:train", heldOut: "paper:test" },
    sample: {
      steps: 10,
      guidanceScale: 4.5,
      rootsPerStage: 1152,
      rootsPerPrompt: 24,
      batchSize: 8,
      decodeBatchSize: 8,
    },
    branch: { count: 1 },
    interval: { first: null, last: null, skipLast: 1 },
    rewards: [{ name: "pick-score", scale: "flow-grpo" }],
    advantage: { mode: "group-relative" },
    select: { mode: "all" },
    objective: { name: "ppo", clipRange: 1e-4, kl: 0.01 },
    lora: { rank: 32, alpha: 64 },
    train: {
      learningRate: 3e-4,
      epochs: 1,
      samplesPerUpdate: 576,
      microBatch: 4,
      gradientCheckpointing: true,
      ema: 0.987,
    },
    eval: { steps: 40, noise: "none", clip: CLIP_H, truth: "none", maxPrompts: 16 },
  },

  /** The forward objective on the embedded model, near enough to it to keep its diversity (docs/results.md). */
  demo: {
    ...EMOJI_GROUPS,
    ...WHOLE_TRAJECTORY,
    stages: 16,
    objective: { ...FORWARD, kl: 7 },
    train: { learningRate: 3e-3, epochs: 4, samplesPerUpdate: 24, microBatch: 128 },
  },

  /** The forward objective on the embedded flow model, in larger batches of more timesteps, and shorter steps (docs/log.md). */
  "demo-flow": {
    ...EMOJI_GROUPS,
    ...WHOLE_TRAJECTORY,
    stages: 16,
    model: { path: "models/emoji-flow" },
    objective: { ...FORWARD, beta: 1, timesteps: 5 },
    train: { learningRate: 3e-3, epochs: 4, samplesPerUpdate: 72, microBatch: 128 },
  },

  /** B2-DiffuRL on the embedded model: the same prompts and as many images a stage, two roots of 4 branches a prompt. */
  "demo-b2": {
    ...EMOJI,
    ...EMOJI_PPO,
    stages: 20,
    sample: { ...EMOJI.sample, rootsPerStage: 36, rootsPerPrompt: 2 },
    branch: { count: 4 },
    interval: { first: 7, last: 10, skipLast: 4 },
    select: { positiveThreshold: 0.3, negativeThreshold: -0.3 },
    train: { ...EMOJI_PPO.train, samplesPerUpdate: 12 },
  },

  /** DDPO on the embedded model. */
  "demo-ddpo": {
    ...EMOJI_GROUPS,
    ...EMOJI_PPO,
    stages: 20,
    interval: { first: null, last: null, skipLast: 4 },
    train: { ...EMOJI_PPO.train, samplesPerUpdate: 24 },
  },
} as const satisfies Record<string, ConfigInput>;

/** The names of the presets. */
export type PresetName = keyof typeof presets;

/** One line about each preset, for help texts. */
export const presetSummaries: Readonly<Record<PresetName, string>> = {
  b2: "B2-DiffuRL: 5 branches, trains the best and the worst, interval grows from 14 to 20 of 20 steps",
  ddpo: "DDPO: one sample per root, trains all of them on the whole trajectory",
  "ddpo-bpt": "DDPO with backward progressive training",
  "ddpo-bs": "DDPO with branch-based sampling",
  "ddpo-pytorch": "DDPO with ddpo-pytorch's numbers for Stable Diffusion; combine it with sd",
  forward: "learns from final latents alone, 8 images a prompt (DiffusionNFT); combine it with sd",
  "branch-centred": "advantages relative to the mean of a root's branches; combine it with the others",
  "group-relative": "advantages relative to a prompt's images of the stage, as in GRPO; combine it with the others",
  "step-weights": "steps count by how far they move the latents; combine it with the others",
  tree: "two splits: a root is a tree of 2 x 2 images, whose parts train by themselves; combine it with the others",
  replay: "trajectories of the last three stages with large advantages train again; combine it with the others",
  window: "noise only in the trained steps, as in MixGRPO; combine it with the others",
  "tight-clip": "a clip range of 1e-4, as elsewhere for mean log-probs; combine it with the others",
  sd: "Stable Diffusion at full size, model and reward from the hub, for one GPU of 24 GB; combine it with the others",
  sd3: "Stable Diffusion 3.5 medium with flow_grpo's numbers: GRPO on 24 images a prompt, for one GPU of 24 GB by the estimate",
  demo: "the forward objective on the embedded model, near enough to it to keep its diversity; five minutes on two cores",
  "demo-flow": "the forward objective on the embedded flow model, a narrow Stable Diffusion 3",
  "demo-b2": "B2-DiffuRL on the embedded model",
  "demo-ddpo": "DDPO on the embedded model",
};
