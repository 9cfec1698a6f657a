// The CLIP of rewards and measures: one for all that name its folder, and gone with the run.
import assert from "node:assert/strict";
import { join } from "node:path";
import { afterEach, describe, it, mock } from "node:test";
import { Trainer } from "../src/b2/index.js";
import { Experiment } from "../src/eval/index.js";
import { Clip } from "../src/rewards/index.js";
import { liveTensors } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { collectGarbage, tinyConfig } from "./support/tiny.js";

const clip = "models/emoji-clip";
const config = tinyConfig({
  stages: 1,
  prompts: { heldOut: ["blue banana"] },
  rewards: [
    { name: "clip-score", model: clip },
    { name: "clip-score", model: clip, label: "again" },
  ],
  eval: { enabled: true, clip, truth: "none" },
});
const truth = tinyConfig(config, {
  prompts: { train: ["a cat riding a bike", "blue banana"], heldOut: null },
  eval: { truth: "emoji" },
});

afterEach(() => mock.restoreAll());

/** How many tensors more there are after `work`, three times, before any garbage is collected. */
async function left(work: () => Promise<void>): Promise<number[]> {
  const counts: number[] = [];
  for (let i = 0; i < 3; i++) {
    await collectGarbage();
    const before = liveTensors();
    await work();
    counts.push(liveTensors() - before);
  }
  return counts;
}

describe("clip-score and eval.clip of the same folder", () => {
  const runs: Record<string, () => Promise<void>> = {
    "a Trainer": async () => {
      const trainer = await Trainer.open(join(temporaryFolder(), "run"), config);
      await trainer.runAll();
      trainer.dispose();
    },
    "an Experiment": async () => {
      const experiment = await Experiment.open(join(temporaryFolder(), "run"), config);
      await experiment.run();
      experiment.dispose();
    },
    "an Experiment with the embedded world's truth": async () => {
      const experiment = await Experiment.open(join(temporaryFolder(), "run"), truth);
      experiment.dispose();
    },
  };
  for (const [name, work] of Object.entries(runs)) {
    it(`are one CLIP in ${name}, which leaves no tensors`, async () => {
      const loaded = mock.method(Clip, "fromPretrained");
      const counts = await left(work);
      assert.equal(loaded.mock.callCount(), 3, "once a run");
      assert.deepEqual(counts, [0, 0, 0]);
    });
  }

  it("is freed when what comes after it cannot be opened", async () => {
    const wrong = tinyConfig(config, { eval: { clip: "no-such-folder" } });
    const broken = tinyConfig(config, { lora: { targetModules: ["no_such_layer"] } });
    const counts = await left(async () => {
      await assert.rejects(Experiment.open(join(temporaryFolder(), "run"), wrong), /no-such-folder/);
      await assert.rejects(Trainer.open(join(temporaryFolder(), "run"), broken), /no_such_layer/);
    });
    assert.deepEqual(counts, [0, 0, 0]);
  });
});
