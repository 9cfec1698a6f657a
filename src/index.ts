/**
 * The library behind the command line: train a text-to-image diffusion model with a reward of your own.
 *
 *     const trainer = await Trainer.open("runs/mine", presets.b2, { reward });
 *     await trainer.runAll();
 *
 * registerReward, registerObjective, registerScheduler and registerModel add entries that configs name (docs/extending.md).
 * Tensors and operators have an entry of their own, `b2-diffurl/torch`; the few that a reward needs are here as well.
 */
export * from "./b2/index.js";
export { InputError, Interrupted } from "./base/errors.js";
export { type Progress, type ProgressTask, type RunContext, silent } from "./base/progress.js";
export * from "./eval/index.js";
export {
  catPrompts,
  type Conditioning,
  type DiffusionModel,
  type GuidanceOptions,
  type ImageSize,
  type ModelFamily,
  type ModelOptions,
  promptEmbeds,
  type PromptEmbeds,
  registerModel,
  StableDiffusionPipeline,
} from "./pipeline/index.js";
export {
  Clip,
  clipScore,
  registerReward,
  type Reward,
  RewardError,
  type RewardContext,
  type RewardFunction,
  type RewardKind,
} from "./rewards/index.js";
export { RunReader, type SampleLine, type StageMetrics, type UpdateMetrics } from "./runs/index.js";
export {
  columnOf,
  DDIMScheduler,
  meanLogDensity,
  openScheduler,
  registerScheduler,
  type Scheduler,
  type SchedulerKind,
  type SchedulerStep,
  type Transition,
} from "./schedulers/index.js";
export { type Device, type DType, noGrad, Tensor, tidy } from "./torch/index.js";
