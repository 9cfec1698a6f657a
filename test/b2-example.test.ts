// examples/custom-reward.ts does what it says: the reward it trains with goes up.
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { trainRedness } from "../examples/custom-reward.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

test("a reward of one's own is learnt", async () => {
  const rewards = await trainRedness(join(temporaryFolder(), "red"), {
    ...tinyValues,
    stages: 6,
    sample: { ...tinyValues.sample, guidanceScale: 1, rootsPerStage: 8, batchSize: 16 },
    interval: { first: 4, last: 4, skipLast: 0 },
    prompts: { train: ["a cat"], heldOut: null },
    branch: { count: 2 },
    select: { mode: "all" },
    train: { ...tinyValues.train, learningRate: 3e-3, samplesPerUpdate: 8, microBatch: 32 },
  } as Parameters<typeof trainRedness>[1]);
  assert.equal(rewards.length, 6);
  const [first, last] = [rewards.slice(0, 2), rewards.slice(-2)].map((r) => (r[0]! + r[1]!) / 2);
  assert.ok(last! > first!, `mean redness went from ${first} to ${last}`);
});
