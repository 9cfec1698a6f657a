/** The objectives that come with the project. */
import type { z } from "zod";
import { dpo } from "./dpo.js";
import { forward } from "./forward.js";
import { defineObjective, objectives, type ObjectiveKind } from "./objective.js";
import { ppo } from "./ppo.js";

for (const kind of [ppo, dpo, forward]) objectives.register(kind);

/**
 * Registers an objective, which configs then name: `objective: { name, ...options }`.
 *
 * @throws InputError if the name is taken
 */
export const registerObjective = <O extends z.ZodObject>(kind: ObjectiveKind<O>): ObjectiveKind =>
  objectives.register(defineObjective(kind));
