/** The objectives that come with the project. */
import { dpo } from "./dpo.js";
import { objectives, type ObjectiveKind } from "./objective.js";
import { ppo } from "./ppo.js";

for (const kind of [ppo, dpo]) objectives.register(kind);

/** Adds an objective for configs to name: `objective: { name, ...options }`. @throws InputError for a taken name */
export const registerObjective = <K extends ObjectiveKind>(kind: K): K => objectives.register(kind);
