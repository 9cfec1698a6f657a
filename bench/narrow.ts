/** Trainings of the narrow models of the golden vectors: seconds each, with every part that the families have. */
import { join, resolve } from "node:path";
import type { FormerConfig } from "./b2-process.js";

/** Absolute, so that any checkout trains the same files. */
const fixtures = resolve(import.meta.dirname, "../../test/fixtures");

/** @param rootsPerStage enough for a few updates a stage, or more for seconds that can be compared */
export const narrow = (family: "sd2" | "sdxl", rootsPerStage = 6): FormerConfig => ({
  model: { path: join(fixtures, family), height: 16, width: 16 },
  prompts: { train: ["a cat", "a dog", "red apple"] },
  sample: { steps: 4, rootsPerStage },
  branch: { count: 2 },
  interval: { first: 2, last: 3 },
  reward: { name: "brightness" },
  select: { positiveThreshold: 0.1, negativeThreshold: -0.1 },
  train: { learningRate: 1e-3, samplesPerUpdate: 3, microBatch: 5 },
});
