export { parseSchedulerConfig, SchedulerConfigError, type DDIMSchedulerConfig } from "./config.js";
export { DDIMScheduler, type DDIMStep } from "./ddim.js";
export { columnOf, drawTransition, meanLogDensity, timestepsOf, type Draw } from "./gaussian.js";
export { registerScheduler } from "./registry.js";
export {
  openScheduler,
  schedulers,
  type Scheduler,
  type SchedulerKind,
  type SchedulerStep,
  type Transition,
} from "./scheduler.js";
