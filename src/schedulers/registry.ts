/** The schedulers that come with the project. */
import { ddim } from "./ddim.js";
import { schedulers, type SchedulerKind } from "./scheduler.js";

schedulers.register(ddim);

/** Adds a scheduler for configs to name: `scheduler: { name, ...options }`. @throws InputError for a name that is taken */
export const registerScheduler = <K extends SchedulerKind>(kind: K): K => schedulers.register(kind);
