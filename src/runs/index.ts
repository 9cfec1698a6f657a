export { addCost, costBetween, NO_COST, passesOf, type Cost } from "./cost.js";
export {
  evaluationAfter,
  layout,
  RUN_VERSION,
  SET_ASIDE,
  stageFiles,
  stageOfEvaluation,
  type MadeBy,
  type Maker,
  type RunFile,
} from "./layout.js";
export type {
  IntervalMeasurement,
  NotFinitePair,
  PartialStage,
  PhaseSeconds,
  SampleLine,
  StageMetrics,
  StageScores,
  UpdateMetrics,
} from "./metrics.js";
export { RunError, RunReader, type StoredTensor } from "./reader.js";
export { leftOvers, RunWriter } from "./writer.js";
export { checkPng } from "./png-check.js";
export { checkFinite } from "../safetensors/finite.js";
