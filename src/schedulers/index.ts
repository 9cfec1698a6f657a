export { type DDIMSchedulerConfig, parseSchedulerConfig, SchedulerConfigError } from "./config.js";
export { DDIMScheduler, type DDIMStep } from "./ddim.js";
export { columnOf, meanLogDensity } from "./gaussian.js";
export { registerScheduler } from "./registry.js";
export {
  openScheduler,
  type Scheduler,
  type SchedulerKind,
  schedulers,
  type SchedulerStep,
  type Transition,
} from "./scheduler.js";
