/** The rewards that come with the project. */
import type { z } from "zod";
import { aesthetic } from "./aesthetic.js";
import { bertScoreKind } from "./bert-score.js";
import { brightness } from "./brightness.js";
import { clipScoreKind } from "./clip-score.js";
import { deqa } from "./deqa.js";
import { geneval } from "./geneval.js";
import { hps } from "./hps.js";
import { httpReward } from "./http.js";
import { jpegCompressibility, jpegIncompressibility } from "./jpeg-compressibility.js";
import { llava } from "./llava.js";
import { moduleReward } from "./module.js";
import { ocr } from "./ocr.js";
import { people } from "./people.js";
import { pickScore } from "./pick-score.js";
import { defineReward, rewards, type RewardKind } from "./reward.js";
import { vlm } from "./vlm.js";

/** In the order of help texts and docs/rewards.md. */
const inProcess = [
  clipScoreKind,
  pickScore,
  hps,
  aesthetic,
  jpegCompressibility,
  jpegIncompressibility,
  brightness,
  ocr,
  people,
  moduleReward,
];
const byServer = [vlm, httpReward, bertScoreKind, llava, geneval, deqa];

for (const kind of [...inProcess, ...byServer]) rewards.register(kind);

/**
 * Registers a reward, which configs then name: `rewards: [{ name, ...options }]`.
 *
 * @throws InputError if the name is taken
 */
export const registerReward = <O extends z.ZodObject>(kind: RewardKind<O>): RewardKind =>
  rewards.register(defineReward(kind));
