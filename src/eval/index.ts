export { evaluate } from "./evaluate.js";
export { Experiment, type ExperimentHooks } from "./experiment.js";
export { generateToFolder, type ImageFolder } from "./generate.js";
export { openJudges, type Judges, type Verdict } from "./judges.js";
export {
  compare,
  measureOf,
  measures,
  rewardOf,
  slotOf,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
  type PromptMeasures,
  type Quantity,
} from "./measures.js";
export { parseEvaluation } from "./parse-evaluation.js";
export type { ExperimentResult } from "./results.js";
