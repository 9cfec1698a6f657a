export { parseSchedulerConfig, type DDIMSchedulerConfig } from "./config.js";
export { DDIMScheduler, type DDIMStep } from "./ddim.js";
export {
  FlowMatchScheduler,
  type FlowMatchConfig,
  type FlowMatchOptions,
  type FlowMatchStep,
  type FlowNoise,
} from "./flow-match.js";
export { columnOf, drawTransition, meanLogDensity, timestepsOf, type Draw } from "./gaussian.js";
export { SchedulerConfigError } from "./rules.js";
export { registerScheduler } from "./registry.js";
export {
  openScheduler,
  schedulers,
  type FamilySchedule,
  type Scheduler,
  type SchedulerKind,
  type SchedulerStep,
  type Transition,
} from "./scheduler.js";
