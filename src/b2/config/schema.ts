/**
 * The configuration of a run: plain data, one schema, with the reference's defaults.
 *
 * Source: the hyperparameters of "Towards Better Alignment" (B2-DiffuRL, arXiv 2503.11240) and of its public PyTorch
 * reference. Keys without a counterpart there (memory bounds, evaluation, records) have
 * defaults that do not change what is computed. docs/config.md is generated from the descriptions below.
 *
 * Reading and validating configs is resolve.ts.
 */
import { z } from "zod";
import type { Named } from "../../base/registry.js";
import { rewards, type WeightedReward } from "../../rewards/index.js";
import { schedulers } from "../../schedulers/index.js";
import { objectives } from "../objectives/index.js";

/** More of anything would fill the memory with its mere numbers. */
const MOST = 1_000_000;
const count = (): z.ZodNumber => z.int().min(1).max(MOST);
/** Of a trajectory: at most the timesteps that models are trained on; no published model has others. */
const steps = (): z.ZodNumber => count().max(1000);
const path = (): z.ZodString => z.string().min(1);
/** A side of an image in pixels: in every published model, one latent cell covers 8 by 8 of them. */
const side = (): z.ZodNumber => z.int().min(8).max(16384).multipleOf(8, "Expected a multiple of 8");

/**
 * How a key may affect results. A run can be resumed with other values of such keys. `nothing`: the same bits.
 * `rounding`: the same numbers up to rounding. `length`: finished stages stay as they are; the value can only grow. Keys
 * without this mark decide what is computed.
 */
export type Affects = "nothing" | "rounding" | "length";
const rounding = { affects: "rounding" satisfies Affects };
const length = { affects: "length" satisfies Affects };
const nothing = { affects: "nothing" satisfies Affects };

/** The prompts themselves, or the name of a file or of a list. */
const promptSource = z.union([path(), z.array(z.string().min(1)).min(1)]);

const model = z.strictObject({
  path: path()
    .default("models/emoji")
    .describe(
      "Model: a folder in diffusers' layout, one safetensors file in the original layout, or a name on the Hugging Face hub (`owner/name`, `owner/name@revision`, `owner/name/file.safetensors`). A relative path is resolved from the working folder, then from the package.",
    ),
  revision: z.string().min(1).nullable().default(null).describe("Branch, tag or commit on the hub; null is `main`."),
  variant: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe("Which weights to take where a folder has several variants, such as `fp16`."),
  config: path()
    .nullable()
    .default(null)
    .describe(
      "For a single-file model: a diffusers folder (or a name on the hub) with the configs, the tokenizers and the whole parts that the file lacks. null: configs are inferred from the file, and CLIP's tokenizer comes from the hub, which is not enough for every family.",
    ),
  dtype: z
    .enum(["float32", "bfloat16", "float16"])
    .default("float32")
    .describe(
      "Number format of the frozen weights in memory. Latents, log-probs, LoRA weights and optimiser state are always float32.",
    ),
  computeDtype: z
    .enum(["float32", "bfloat16", "float16"])
    .nullable()
    .default(null)
    .describe(
      "Number format of the forward passes; weights in another format are converted layer by layer. null: `model.dtype`, but float32 on a CPU without native arithmetic in that format, where it would be many times slower. float16 trains with a dynamic loss scale.",
    ),
  device: z
    .string()
    .regex(/^(cpu|mps|cuda(:\d+)?)$/, "Expected cpu, mps, cuda or cuda:<index>")
    .default("cpu")
    .describe("Where to compute: `cpu`, `mps`, `cuda` or `cuda:<index>`.")
    .meta(rounding),
  height: side()
    .nullable()
    .default(null)
    .describe("Height of the images in pixels, a multiple of 8; null is the model's own size."),
  width: side()
    .nullable()
    .default(null)
    .describe("Width of the images in pixels, a multiple of 8; null is the model's own size."),
  tiling: z
    .boolean()
    .default(false)
    .describe(
      "Decode images larger than the model's training size in overlapping tiles, so that memory does not grow with image size. Each tile has its own norms and attention, so images, and therefore rewards, differ slightly.",
    ),
  offload: z
    .boolean()
    .default(false)
    .describe(
      "Keep what encodes prompts and what decodes images in main memory, and bring each to the device when it is called (diffusers' `enable_model_cpu_offload`); the denoiser stays there. Less memory of a GPU for a little time: the prompts that are to come are encoded first, and cached in main memory. Stable Diffusion 3 frees its text encoders then, on a CPU too, and loads them again for other prompts (docs/memory.md). On a CPU other models gain nothing.",
    )
    .meta(nothing),
  threads: count()
    .max(4096)
    .nullable()
    .default(null)
    .describe("Threads that libtorch computes with; null is one per core.")
    .meta(rounding),
  options: z.record(z.string(), z.unknown()).default({}).describe("Options that the model's family defines, if any."),
});

const prompts = z.strictObject({
  train: promptSource
    .default("emoji:train")
    .describe(
      "Prompts to learn from: a JSON list, a text file with one per line, a `.jsonl` file whose lines have a `prompt` and what rewards want to know of it, a list by name (`emoji:train`, `paper:train` and others, see `b2 prompts`; `emoji:train[:72]` are its first 72), or the prompts themselves.",
    ),
  heldOut: promptSource
    .nullable()
    .default("emoji:held-out")
    .describe(
      "Prompts that are never trained on, for `b2 eval` and the tables of `b2 run`; given in the same ways. null for none.",
    )
    .meta(nothing),
  order: z
    .enum(["random", "in-turn", "fixed"])
    .default("random")
    .describe("Which prompt a root gets: a random one, the next in the list, or always `prompts.fixed`."),
  fixed: z.string().min(1).nullable().default(null).describe("The prompt for order `fixed`."),
});

const sample = z.strictObject({
  steps: steps().default(20).describe("T: denoising steps of a trajectory."),
  guidanceScale: z
    .number()
    .min(1)
    .default(5)
    .describe("Classifier-free guidance, in sampling and in training. 1 is a single unguided pass at half the cost."),
  negativePrompt: z.string().default("").describe("What guidance steers away from."),
  noise: z
    .enum(["everywhere", "interval"])
    .default("everywhere")
    .describe(
      "Which steps of a stage's trajectories draw noise. `everywhere`: all of them. `interval`: only the trained ones (MixGRPO); the steps before the split, and the last `interval.skipLast`, are deterministic. Evaluations have `eval.noise`.",
    ),
  rootsPerStage: count()
    .default(256)
    .describe("Roots per stage, which have one prompt each (the reference: 32 batches of 8)."),
  rootsPerPrompt: count()
    .default(1)
    .describe(
      "How many roots in a row have the same prompt. Several give a group of independent images without branches, as in GRPO.",
    ),
  batchSize: count()
    .default(40)
    .describe(
      "Maximum number of latents in one forward pass. Bounds memory; images depend on it only through rounding.",
    )
    .meta(rounding),
  decodeBatchSize: count()
    .default(16)
    .describe("Maximum number of images that are decoded and scored at once. Bounds memory.")
    .meta(rounding),
});

const branch = z.strictObject({
  count: count().default(5).describe("K: branches that split off each root. 1 is no branching (DDPO)."),
  splits: z
    .array(
      z.strictObject({
        at: count(), // steps before the end
        count: z.int().min(2).max(MOST),
      }),
    )
    .default([])
    .describe(
      'Further splits inside the interval, which make each root a tree (BranchGRPO): where `at` steps are left, every branch divides into `count`. `[{ "at": 8, "count": 2 }]` gives `branch.count` times 2 images a root. A node is worth the mean reward of its images and is compared with the nodes of its level; each part between two splits trains once, with the advantage of the node it leads to. Selection applies to the children of every node.',
    ),
});

const interval = z.strictObject({
  mode: z
    .enum(["fixed", "measured"])
    .default("fixed")
    .describe(
      '`fixed`: from `interval.first` to `interval.last`. `measured`: as a probe of the policy proposes before the first stage, and again as training goes on (docs/probe.md); then first and last are null. `interval: "measured"` is short for this.',
    ),
  first: count()
    .nullable()
    .default(14)
    .describe(
      "How many of a trajectory's last steps are branched and trained in the first stage; null is all of them.",
    ),
  last: count()
    .nullable()
    .default(20)
    .describe("The same in the last stage. Both null: the whole trajectory from the first stage on."),
  stages: count()
    .nullable()
    .default(null)
    .describe(
      "Over how many stages the interval grows from first to last; later ones train `last`. null: over all `stages`. A run that is given more `stages` later gets those that it was begun with here, so that what is finished stays right.",
    ),
  skipLast: z
    .int()
    .min(0)
    .max(MOST)
    .default(0)
    .describe(
      "How many of the interval's last steps are sampled but not trained. The second-to-last step of a trajectory has a tiny sigma after a long stride. The log-prob there is many times as sensitive as elsewhere, and with few steps its noise drowns the gradient of all others; docs/log.md has the figures.",
    ),
  every: z
    .int()
    .min(0)
    .max(MOST)
    .default(25)
    .describe("`measured`: measure again after every n-th stage; 0: before the first stage only."),
  roots: count().default(24).describe("`measured`: roots of a measurement, spread over the training prompts."),
  branches: z.int().min(2).max(MOST).default(4).describe("`measured`: branches of each root at every split."),
  splits: count()
    .default(6)
    .describe("`measured`: how many splits, evenly spaced. A measurement scores roots x branches x splits images."),
});

const advantage = z.strictObject({
  mode: z
    .enum(["prompt-history", "branch-centred", "group-relative"])
    .default("prompt-history")
    .describe(
      "`prompt-history`: z-score among all rewards of the prompt in this stage and the history (the reference). `branch-centred`: reward minus the mean of its root's branches, over the same standard deviation, so that every root has branches of both signs. `group-relative`: z-score among the images of the prompt in this stage alone, of whichever roots (GRPO); it needs several of each prompt, by branches or by `prompts.order` `in-turn`.",
    ),
  combine: z
    .enum(["raw", "normalised"])
    .default("raw")
    .describe(
      "How several rewards become one advantage. `raw`: that of their weighted sum, so that weights must account for scales. `normalised`: each reward has its own advantage, and these are summed by weight, over the root of the sum of squared weights.",
    ),
  historyStages: z
    .int()
    .min(0)
    .max(MOST)
    .default(8)
    .describe(
      "H: how many earlier stages' rewards of the prompt count in its mean and deviation. `group-relative` counts none.",
    ),
  historyImages: count()
    .nullable()
    .default(null)
    .describe(
      "At most how many rewards of a prompt count, the latest ones, those of this stage included (ddpo-pytorch's buffer); null for all of `advantage.historyStages`.",
    ),
  minImages: count()
    .default(1)
    .describe(
      "A prompt with fewer rewards than this is compared with all images of the stage instead, by their mean and deviation (ddpo-pytorch: 16).",
    ),
  clip: z.number().gt(0).default(5).describe("Advantages are clipped to plus or minus this value."),
  positiveWeight: z.number().min(0).default(1).describe("beta1: factor of positive advantages."),
  negativeWeight: z.number().min(0).default(1).describe("beta2: factor of all other advantages."),
});

const select = z.strictObject({
  mode: z
    .enum(["best-worst", "all"])
    .default("best-worst")
    .describe("`best-worst`: at most the best and the worst branch of each root. `all`: every sample trains (DDPO)."),
  positiveThreshold: z.number().default(0.5).describe("The best branch trains if its advantage is at least this."),
  negativeThreshold: z.number().default(-0.5).describe("The worst branch trains if its advantage is below this."),
});

const replay = z.strictObject({
  stages: z
    .int()
    .min(0)
    .max(100)
    .default(0)
    .describe(
      "How many earlier stages' selected trajectories can train again. 0: no replay. The run folder keeps them. Their old log-probs stay those that they were sampled with.",
    ),
  share: z
    .number()
    .gt(0)
    .default(0.5)
    .describe(
      "How many of them train again, for each that the present stage selects: those with the largest advantages, of either sign.",
    ),
});

const lora = z.strictObject({
  rank: count().default(4).describe("Rank of the adapter."),
  alpha: z
    .number()
    .gt(0)
    .nullable()
    .default(null)
    .describe("The adapter's output is scaled by alpha / rank; null is alpha = rank."),
  targetModules: z
    .array(z.string().min(1))
    .min(1)
    .nullable()
    .default(null)
    .describe(
      "Linear and convolution layers of the denoiser that get an adapter, by the end of their names; null is the model's own choice, for Stable Diffusion the attention's `to_q`, `to_k`, `to_v` and `to_out.0`.",
    ),
});

const train = z.strictObject({
  parameters: z
    .enum(["lora", "full"])
    .default("lora")
    .describe(
      "What learns: a LoRA, or all weights of the denoiser (full fine-tuning, in float32: 16 bytes per weight with gradient and optimiser state, 10 with `train.use8bitAdam`). `full` keeps the weights of the last `record.optimizers` stages, and writes the whole model to `model` in the run folder, in diffusers' layout.",
    ),
  epochs: count().default(2).describe("Passes over the selected samples of a stage."),
  samplesPerUpdate: count()
    .default(128)
    .describe(
      "Samples per optimiser step, with all their trained timesteps; their gradients are averaged (the reference: 64 micro-batches of 2).",
    ),
  microBatch: count()
    .default(16)
    .describe(
      "(sample, timestep) pairs in one forward and backward pass. Bounds memory; the gradient does not depend on it.",
    )
    .meta(rounding),
  gradientCheckpointing: z
    .boolean()
    .default(false)
    .describe(
      "Keep only the inputs of each denoiser block and recompute the rest in the backward pass: the same gradient in far less memory, for about a third more time.",
    )
    .meta(rounding),
  timestepFraction: z
    .number()
    .gt(0)
    .max(1)
    .default(1)
    .describe("Share of the trained timesteps that each sample contributes, at least one, drawn anew every epoch."),
  oldLogProbs: z
    .enum(["sampled", "recomputed"])
    .nullable()
    .default(null)
    .describe(
      "Where the old log-probs come from. `sampled`: from the sampler. `recomputed`: computed again before a stage's first update, in the micro-batches of its first epoch, so that the first ratio is exactly 1; in half precision, batches of another size round differently. null: `recomputed` where the forward passes compute in half precision, else `sampled`.",
    ),
  stepWeights: z
    .enum(["none", "change"])
    .default("none")
    .describe(
      "How much each trained step of a sample counts. `none`: all the same. `change`: in proportion to the squared change of its latents, |x_t - x_{t-1}|^2, with mean 1 over the sample's trained steps; the advantage is multiplied by it after clipping. For objectives on transitions that use the advantage.",
    ),
  learningRate: z.number().gt(0).default(1e-4).describe("AdamW's learning rate."),
  adamBeta1: z.number().min(0).lt(1).default(0.9).describe("AdamW's first decay."),
  adamBeta2: z.number().min(0).lt(1).default(0.999).describe("AdamW's second decay."),
  weightDecay: z.number().min(0).default(1e-4).describe("AdamW's decoupled weight decay."),
  adamEpsilon: z.number().gt(0).default(1e-8).describe("AdamW's epsilon."),
  use8bitAdam: z
    .boolean()
    .default(false)
    .describe(
      "Keep both of AdamW's moments in 8 bits, in blocks of 256 elements, for parameters of at least 4,096 elements: 2 bytes per weight instead of 8, mostly of use in full fine-tuning (arXiv 2110.02861).",
    ),
  maxGradNorm: z
    .number()
    .gt(0)
    .default(1)
    .describe("Maximum norm of the gradient; larger gradients are scaled down to it."),
  mostSkipped: z
    .int()
    .min(0)
    .max(MOST)
    .default(8)
    .describe(
      "How many optimiser steps in a row may be skipped because their loss or gradient is NaN or infinite, before the run stops. One bad sample spoils a step in every epoch, so a few are no disaster; weights that have run away spoil all. What float16's loss scale skips to find its size does not count.",
    )
    .meta(nothing),
  ema: z
    .number()
    .gt(0)
    .lt(1)
    .nullable()
    .default(null)
    .describe(
      "Decay of an exponential moving average of the weights, which is evaluated and is the run's result, while training and sampling go on with the weights themselves; 0.9 to 0.99 is usual. After n optimiser steps it is at most (1 + n) / (10 + n). null: no average.",
    ),
});

const evaluation = z.strictObject({
  every: z
    .int()
    .min(0)
    .max(MOST)
    .default(0)
    .describe("`b2 run` evaluates after every n-th stage; 0: before the first and after the last only.")
    .meta(nothing),
  enabled: z.boolean().default(true).describe("Whether `b2 run` evaluates at all.").meta(nothing),
  steps: steps()
    .nullable()
    .default(null)
    .describe(
      "Denoising steps of an image in evaluations, on contact sheets and of `b2 generate` (flow_grpo's `eval_num_steps`); null is `sample.steps`.",
    )
    .meta(nothing),
  noise: z
    .enum(["everywhere", "none"])
    .default("everywhere")
    .describe(
      "Which of these steps draw noise. `everywhere`: all of them, as in training. `none`: none of them, as with an eta of 0 (flow_grpo's `noise_level=0`).",
    )
    .meta(nothing),
  imagesPerPrompt: count()
    .default(4)
    .describe("Images of each prompt, from the same noise at every evaluation.")
    .meta(nothing),
  maxPrompts: count()
    .default(64)
    .describe("Maximum number of prompts from each list; a longer list is thinned out evenly.")
    .meta(nothing),
  clip: path()
    .nullable()
    .default("models/emoji-clip")
    .describe("CLIP folder whose image features measure diversity; null skips it.")
    .meta(nothing),
  truth: z
    .enum(["emoji", "none"])
    .default("emoji")
    .describe(
      "`emoji`: the embedded world's classifier recognises the scene in each image and compares it with the prompt. It is never used as a reward.",
    )
    .meta(nothing),
  sheet: z
    .int()
    .min(0)
    .max(MOST)
    .default(12)
    .describe("Number of prompts of each list on the contact sheets; 0 for no sheets.")
    .meta(nothing),
  sheetImages: count().default(2).describe("Images of each of them, below each other.").meta(nothing),
});

const record = z.strictObject({
  images: z
    .int()
    .min(0)
    .max(MOST)
    .default(8)
    .describe("How many images of each stage are kept as PNG files.")
    .meta(nothing),
  trajectories: z
    .int()
    .min(0)
    .max(MOST)
    .default(1)
    .describe("How many of the last stages keep their selected trajectories in the run folder.")
    .meta(nothing),
  optimizers: count()
    .default(3)
    .describe(
      "How many of the last stages keep their optimiser state in the run folder, and with `train.parameters` `full` their weights. The LoRA of every stage is kept.",
    )
    .meta(nothing),
  phases: z
    .enum(["auto", "always", "never"])
    .default("auto")
    .describe(
      "Whether a stage's samples and scores are written to the run folder as they come, so that a process that is killed loses at most one phase. `auto`: where writing takes less than a twentieth of the time that they took. `never`: only when a reward fails, or on Ctrl-C while it scores.",
    )
    .meta(nothing),
});

const plugins = z
  .array(path())
  .default([])
  .describe(
    "Modules that register your own rewards, objectives, schedulers or models; paths are relative to the working folder. The same as `--plugin`.",
  )
  .meta(nothing);

/** The keys that every reward has besides its own options. */
export const rewardShape = {
  weight: z.number().default(1).describe("Factor of the reward in the sum that is maximised."),
  role: z
    .enum(["train", "judge"])
    .default("train")
    .describe(
      "`train`: a part of the sum that is maximised. `judge`: measured at evaluations and never trained on; a run warns when a trained reward rises while a judge falls.",
    ),
  timeout: z
    .number()
    .gt(0)
    .max(MOST)
    .nullable()
    .default(600)
    .describe("Seconds that the reward may take for a batch of images; null for no limit.")
    .meta(nothing),
  label: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      "Its name in tables and metrics; null is the reward's own name. Two rewards of the same name need labels.",
    ),
};

/** The schema of the entries that are registered, and how many they were when it was built. */
let built: { readonly entries: number; readonly schema: ReturnType<typeof buildSchema> } | undefined;

/**
 * The schema of a whole run. Every key has a default, so `{}` is the reference's B2-DiffuRL. The schema is built again
 * when plugins have added to the registries.
 */
export function configSchema(): ReturnType<typeof buildSchema> {
  const entries = [schedulers, rewards, objectives].reduce((sum, registry) => sum + registry.names().length, 0);
  if (built?.entries !== entries) built = { entries, schema: buildSchema() };
  return built.schema;
}

function buildSchema() {
  return z.strictObject({
    seed: z
      .int()
      .min(0)
      .max(2 ** 32 - 1)
      .default(42)
      .describe("The seed from which all random numbers derive."),
    stages: count().default(100).describe("S: stages of sampling, selection and training.").meta(length),
    plugins,
    model: model.prefault({}).describe("The text-to-image model that learns."),
    scheduler: schedulers
      .schema()
      .nullable()
      .default(null)
      .describe("The sampler: how a prediction becomes the next latents. null is the model family's own."),
    prompts: prompts.prefault({}).describe("The prompts that the model learns from and is evaluated on."),
    sample: sample.prefault({}).describe("Sampling of trajectories."),
    branch: branch.prefault({}).describe("Branch-based sampling."),
    interval: interval
      .prefault({})
      .describe("Backward progressive training: the trained interval grows from the last steps toward the noise."),
    rewards: (z.array(rewards.schema(rewardShape)).min(1) as unknown as z.ZodType<WeightedReward[]>)
      .prefault([{ name: "clip-score" }] as unknown as WeightedReward[])
      .describe("The score of an image: one number, the weighted sum of these rewards."),
    advantage: advantage.prefault({}).describe("Turns rewards into advantages, which are comparable between prompts."),
    select: select.prefault({}).describe("Which branches train."),
    replay: replay.prefault({}).describe("Trajectories of earlier stages that train again."),
    objective: objectives.schema().prefault({ name: "ppo" }).describe("What the update minimises."),
    lora: lora.prefault({}).describe("The adapter that is trained where `train.parameters` is `lora`."),
    train: train.prefault({}).describe("The optimiser steps of a stage."),
    eval: evaluation.prefault({}).describe("What is measured before and after training."),
    record: record.prefault({}).describe("What a run keeps besides metrics and weights."),
  });
}

/** A resolved configuration. */
export type Config = z.output<ReturnType<typeof configSchema>>;

/** What a preset, a config file or a caller provides: any subset of the keys. */
export type ConfigInput = Omit<z.input<ReturnType<typeof configSchema>>, "rewards" | "objective" | "scheduler"> & {
  readonly rewards?: readonly (string | Named)[];
  readonly objective?: Readonly<Record<string, unknown>>;
  readonly scheduler?: Readonly<Record<string, unknown>> | null;
};

/** The steps of an image that is evaluated or shown. */
export const evaluationSteps = ({ eval: { steps }, sample }: Pick<Config, "eval" | "sample">): number =>
  steps ?? sample.steps;

/** The interval's length in steps, in the first and in the last stage, and over how many stages it grows. */
export function intervalOf({ interval, sample: { steps }, stages }: Pick<Config, "interval" | "sample" | "stages">): {
  readonly first: number;
  readonly last: number;
  readonly stages: number;
} {
  return { first: interval.first ?? steps, last: interval.last ?? steps, stages: interval.stages ?? stages };
}
