/** The schedulers that come with the project. */
import type { z } from "zod";
import { ddim } from "./ddim.js";
import { flowMatch } from "./flow-match.js";
import { defineScheduler, schedulers, type SchedulerKind } from "./scheduler.js";

schedulers.register(ddim);
schedulers.register(flowMatch);

/**
 * Registers a scheduler, which configs then name: `scheduler: { name, ...options }`.
 *
 * @throws InputError if the name is taken
 */
export const registerScheduler = <O extends z.ZodObject>(kind: SchedulerKind<O>): SchedulerKind =>
  schedulers.register(defineScheduler(kind));
