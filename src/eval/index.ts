export { evaluate } from "./evaluate.js";
export { Experiment, type ExperimentResult } from "./experiment.js";
export { generateToFolder, type ImageFolder } from "./generate.js";
export { type Judges, openJudges } from "./judges.js";
export {
  compare,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
  measureOf,
  rewardOf,
} from "./measures.js";
