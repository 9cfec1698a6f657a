/** The rewards that come with the project. */
import type { z } from "zod";
import { brightness } from "./brightness.js";
import { clipScoreKind } from "./clip-score.js";
import { deqa } from "./deqa.js";
import { geneval } from "./geneval.js";
import { httpReward } from "./http.js";
import { jpegCompressibility } from "./jpeg-compressibility.js";
import { llava } from "./llava.js";
import { moduleReward } from "./module.js";
import { people } from "./people.js";
import { defineReward, rewards, type RewardKind } from "./reward.js";
import { vlm } from "./vlm.js";

for (const kind of [clipScoreKind, jpegCompressibility, brightness, people, moduleReward]) rewards.register(kind);
for (const kind of [vlm, httpReward, llava, geneval, deqa]) rewards.register(kind);

/**
 * Registers a reward, which configs then name: `rewards: [{ name, ...options }]`.
 *
 * @throws InputError if the name is taken
 */
export const registerReward = <O extends z.ZodObject>(kind: RewardKind<O>): RewardKind =>
  rewards.register(defineReward(kind));
