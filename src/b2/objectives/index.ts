export { dpoLoss } from "./dpo.js";
export { forwardLoss, type ForwardOptions } from "./forward.js";
export {
  needsOf,
  objectives,
  timestepChoiceOf,
  type Item,
  type LatentBatch,
  type LearnsFrom,
  type ObjectiveKind,
  type ObjectiveNeeds,
  type ObjectiveResult,
  type TimestepChoice,
  type TransitionBatch,
} from "./objective.js";
export { ppoLoss } from "./ppo.js";
export { registerObjective } from "./registry.js";
export { toFloats } from "./values.js";
