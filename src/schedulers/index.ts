export { parseSchedulerConfig, SchedulerConfigError, type DDIMSchedulerConfig } from "./config.js";
export { DDIMScheduler, type DDIMStep, type DDIMTransition } from "./ddim.js";
