export { configMarkdown } from "./config/docs.js";
export { presets, presetSummaries, type PresetName } from "./config/presets.js";
export { ConfigError, differences, parseAssignments, readConfigFile, resolveConfig } from "./config/resolve.js";
export { configSchema, type Config, type ConfigInput } from "./config/schema.js";
export {
  dpoLoss,
  forwardLoss,
  objectives,
  ppoLoss,
  registerObjective,
  toFloats,
  type ForwardOptions,
  type Item,
  type LatentBatch,
  type LearnsFrom,
  type ObjectiveKind,
  type ObjectiveNeeds,
  type ObjectiveResult,
  type TimestepChoice,
  type TransitionBatch,
} from "./objectives/index.js";
export { runMemory, type PhaseMemory, type RunMemory } from "./memory/index.js";
export { loadPlugins } from "./plugins.js";
export { Policy, type InferenceWeights, type WeightedLora } from "./policy/policy.js";
export { advantages, advantagesByLevel, type AdvantageOptions, type PromptRewards } from "./rollout/advantage.js";
export { sampleBranches, type Rollout } from "./rollout/branches.js";
export { promptsOfStage, readPromptLists, readPrompts, type PromptLists } from "./rollout/prompts.js";
export {
  disposeRecord,
  type BranchBatch,
  type Edge,
  type SampleKey,
  type ScoredBatch,
  type TrainKey,
  type TrainSet,
} from "./records.js";
export { trainedSteps } from "./rollout/schedule.js";
export { selectRows, selectSamples, type SelectedRow, type SelectionOptions } from "./rollout/select.js";
export { imagesOf, levelsOf, type Level } from "./rollout/tree.js";
export { planFolder, withDevice, type FolderPlan, type RunPlan } from "./run-plan.js";
export { hearPlan, tellPlan } from "./workers.js";
export { sampleStage, selectStage, trainStage } from "./stage-phases.js";
export { Trainer, type StageHooks, type TrainerOptions } from "./trainer.js";
export { withReplay } from "./update/replay.js";
export { updatePolicy, type Optimization } from "./update/update.js";
