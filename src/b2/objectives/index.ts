export { dpoLoss } from "./dpo.js";
export {
  objectives,
  type Item,
  type LatentBatch,
  type LearnsFrom,
  type ObjectiveKind,
  type ObjectiveNeeds,
  type ObjectiveResult,
  type TransitionBatch,
} from "./objective.js";
export { ppoLoss } from "./ppo.js";
export { registerObjective } from "./registry.js";
export { toFloats } from "./values.js";
