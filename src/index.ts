/**
 * The library behind the command line: train a text-to-image diffusion model with a reward of your own.
 *
 *     const trainer = await Trainer.open("runs/mine", presets.b2, { reward });
 *     await trainer.runAll();
 *
 * registerReward, registerObjective, registerScheduler and registerModel add entries that configs name
 * (docs/extending.md). Tensors and operators are exported by `b2-diffurl/torch`, and the layers of models by
 * `b2-diffurl/nn`; the few of them that a reward needs are exported here as well.
 */
export { z } from "zod";
export * from "./b2/index.js";
export { InputError, Interrupted } from "./base/errors.js";
export { silent, type Progress, type ProgressTask, type RunContext } from "./base/progress.js";
export * from "./eval/index.js";
export {
  catPrompts,
  expandPrompts,
  expectNewFolder,
  promptEmbeds,
  registerModel,
  StableDiffusion3Pipeline,
  StableDiffusionPipeline,
  type Conditioning,
  type DiffusionModel,
  type GuidanceOptions,
  type ImageSize,
  type ModelFamily,
  type ModelOptions,
  type PromptEmbeds,
} from "./pipeline/index.js";
export {
  Clip,
  clipScore,
  registerReward,
  RewardError,
  RewardResources,
  RewardSet,
  type ImageKey,
  type ModuleReward,
  type OpenReward,
  type Placement,
  type PromptMetadata,
  type Reward,
  type RewardContext,
  type RewardFunction,
  type RewardKind,
  type Scores,
  type ScoringCall,
  type SharedModel,
  type WeightedReward,
} from "./rewards/index.js";
export { RunReader, type SampleLine, type StageMetrics, type UpdateMetrics } from "./runs/index.js";
export { ModelConfigError } from "./models/index.js";
export { loadSafetensors, saveSafetensors } from "./safetensors/index.js";
export {
  columnOf,
  DDIMScheduler,
  drawTransition,
  FlowMatchScheduler,
  meanLogDensity,
  openScheduler,
  parseSchedulerConfig,
  registerScheduler,
  timestepsOf,
  type DDIMSchedulerConfig,
  type FamilySchedule,
  type FlowMatchConfig,
  type FlowMatchOptions,
  type FlowMatchStep,
  type FlowNoise,
  type Scheduler,
  type SchedulerKind,
  type SchedulerStep,
  type Transition,
} from "./schedulers/index.js";
export { noGrad, Tensor, tidy, type Device, type DType } from "./torch/index.js";
