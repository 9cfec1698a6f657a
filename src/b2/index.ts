export { configMarkdown } from "./config/docs.js";
export { type PresetName, presets, presetSummaries } from "./config/presets.js";
export { ConfigError, differences, parseAssignments, readConfigFile, resolveConfig } from "./config/resolve.js";
export { type Config, type ConfigInput, configSchema } from "./config/schema.js";
export {
  type Item,
  type LatentBatch,
  type LearnsFrom,
  type ObjectiveKind,
  type ObjectiveNeeds,
  type ObjectiveResult,
  objectives,
  dpoLoss,
  ppoLoss,
  registerObjective,
  toFloats,
  type TransitionBatch,
} from "./objectives/index.js";
export { loadPlugins } from "./plugins.js";
export { type InferenceWeights, Policy, type WeightedLora } from "./policy/policy.js";
export { advantages, type AdvantageOptions, type PromptRewards } from "./rollout/advantage.js";
export { type Rollout, sampleBranches } from "./rollout/branches.js";
export { type PromptLists, promptsOfStage, readPromptLists, readPrompts } from "./rollout/prompts.js";
export { type BranchBatch, disposeRecord, type SampleKey, type ScoredBatch, type TrainSet } from "./rollout/records.js";
export { trainedSteps } from "./rollout/schedule.js";
export { selectSamples, type SelectionOptions } from "./rollout/select.js";
export { sampleStage, selectStage, trainStage } from "./stage-phases.js";
export { type StageHooks, Trainer, type TrainerOptions } from "./trainer.js";
export { type Optimization, updatePolicy } from "./update/update.js";
