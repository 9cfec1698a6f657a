export { evaluate } from "./evaluate.js";
export { Experiment, type ExperimentResult } from "./experiment.js";
export { generateToFolder, type ImageFolder } from "./generate.js";
export { openJudges, type Judges } from "./judges.js";
export {
  compare,
  measureOf,
  rewardOf,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
} from "./measures.js";
