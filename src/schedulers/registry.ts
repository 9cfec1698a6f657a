/** The schedulers that come with the project. */
import type { z } from "zod";
import { ddim } from "./ddim.js";
import { defineScheduler, schedulers, type SchedulerKind } from "./scheduler.js";

schedulers.register(ddim);

/** Adds a scheduler for configs to name: `scheduler: { name, ...options }`. @throws InputError for a name that is taken */
export const registerScheduler = <O extends z.ZodObject>(kind: SchedulerKind<O>): SchedulerKind =>
  schedulers.register(defineScheduler(kind));
