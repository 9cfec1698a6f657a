export { addCost, costBetween, NO_COST, passesOf, type Cost } from "./cost.js";
export {
  evaluationAfter,
  layout,
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
export { RunWriter } from "./writer.js";
