export { dpoLoss } from "./dpo.js";
export {
  type Item,
  type LatentBatch,
  type LearnsFrom,
  type ObjectiveKind,
  type ObjectiveNeeds,
  type ObjectiveResult,
  objectives,
  type TransitionBatch,
} from "./objective.js";
export { ppoLoss } from "./ppo.js";
export { registerObjective } from "./registry.js";
export { toFloats } from "./values.js";
