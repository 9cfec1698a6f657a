/** Whole stages with trees and with replay, on the narrow Stable Diffusion of the golden vectors. */
import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { estimate } from "../src/b2/dry-run.js";
import {
  disposeRecord,
  Policy,
  sampleBranches,
  sampleStage,
  selectStage,
  Trainer,
  trainStage,
  type Config,
} from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { RunReader } from "../src/runs/index.js";
import { liveTensors, type Tensor } from "../src/torch/index.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { collectGarbage, redness, tinyConfig } from "./support/tiny.js";

/** Two branches where three (or two) steps are left, which both divide again before the last. */
const tree = { branch: { count: 2, splits: [{ at: 1, count: 2 }] } };

test("images of a tree agree up to the split where they part, and edges have noise of their own", async () => {
  const config = tinyConfig(tree);
  const policy = Policy.forTraining(config);
  const rollout = { stage: 1, prompts: ["a cat", "a cat"], interval: 3 };
  const [whole, final] = [
    await sampleBranches(policy, rollout, config, { progress: silent }),
    await sampleBranches(policy, { ...rollout, data: "final-latents" }, config, { progress: silent }),
  ];
  assert.deepEqual(whole.latents.shape.slice(0, 2), [8, 4]);
  assert.deepEqual(
    whole.keys.map(({ root, branch }) => [root, branch]),
    [0, 1].flatMap((root) => [0, 1, 2, 3].map((branch) => [root, branch])),
  );
  const state = (image: number, step: number): Tensor => whole.latents.select(0, image).select(0, step);
  for (let image = 0; image < 8; image += 4) {
    for (const other of [1, 2, 3]) assert.ok(state(image, 0).equal(state(image + other, 0)));
    for (const step of [1, 2]) {
      assert.ok(state(image, step).equal(state(image + 1, step)));
      assert.ok(state(image + 2, step).equal(state(image + 3, step)));
      assert.ok(!state(image, step).equal(state(image + 2, step)));
    }
  }
  const ends = Array.from({ length: 8 }, (_, image) => state(image, 3).flatten().toArray().join());
  assert.equal(new Set(ends).size, 8);
  const logProbs = Array.from({ length: 4 }, (_, image) => whole.logProbs!.select(0, image).toArray());
  assert.deepEqual(logProbs[0]!.slice(0, 2), logProbs[1]!.slice(0, 2));
  assert.notEqual(logProbs[0]![2], logProbs[1]![2]);
  assert.ok(final.latents.select(1, 0).equal(whole.latents.select(1, 3)));
  [whole, final].forEach(disposeRecord);
  policy.dispose();
});

/** All that decides how a run goes on. */
const contents = (run: RunReader): unknown =>
  run.finishedStages().map((stage) => ({
    updates: run.updates(stage),
    samples: run.samples(stage),
    lora: readFileSync(run.stagePath(stage, "lora")).toString("base64"),
  }));

/** @param after called with the number of each finished stage */
async function train(config: Config, folder: string, after?: (stage: number) => void): Promise<RunReader> {
  const trainer = await Trainer.open(folder, config, { reward: redness });
  await trainer.runAll({ after: ({ stage }) => after?.(stage) });
  trainer.dispose();
  return new RunReader(folder);
}

test("every edge of a tree trains once, replay adds to it, and a run goes on to the same bits", async () => {
  const config = tinyConfig(tree, {
    stages: 3,
    select: { mode: "all" },
    advantage: { mode: "group-relative" },
    train: { epochs: 1, samplesPerUpdate: 100, stepWeights: "change" },
    replay: { stages: 2, share: 0.5 },
    record: { trajectories: 0 },
  });
  await collectGarbage();
  const live = liveTensors();
  const folder = temporaryFolder();
  const copies = ["resumed", "phases", "broken"].map((name) => join(folder, name));
  const [resumed, phases, broken] = copies as [string, string, string];
  const whole = await train(config, join(folder, "whole"), (stage) => {
    if (stage === 1) for (const copy of copies) cpSync(join(folder, "whole"), copy, { recursive: true });
  });
  await collectGarbage();
  assert.equal(liveTensors(), live);

  const metrics = whole.metrics();
  assert.deepEqual(
    metrics.map(({ trainedSteps }) => trainedSteps),
    [2, 2, 3],
  );
  assert.deepEqual(
    metrics.map(({ images, selected }) => [images, selected]),
    Array(3).fill([12, 18]),
  );
  // Three roots: 2 edges of one step (then of two), and 4 of one.
  const pairs = metrics.map((stage) => stage.pairs);
  assert.equal(pairs[0], 3 * (2 + 4));
  assert.equal(pairs[1], 18 + 9);
  assert.ok(pairs[2]! >= 3 * (2 * 2 + 4) + 9 && pairs[2]! <= 24 + 18, `${pairs[2]}`);
  assert.ok(Math.abs(metrics[0]!.ratioMin! - 1) < 1e-5 && Math.abs(metrics[0]!.ratioMax! - 1) < 1e-5);
  assert.ok(metrics[1]!.ratioMax! - 1 > 1e-5, "what is replayed was sampled by another policy");
  assert.deepEqual(
    [0, 1, 2].map((stage) => whole.has(stage, "selected")),
    [false, true, true],
  );

  assert.deepEqual(contents(await train(config, resumed)), contents(whole));
  for (const phase of [sampleStage, selectStage, trainStage]) {
    const trainer = await Trainer.open(phases, config, { reward: redness });
    await phase(trainer, 2);
    trainer.dispose();
  }
  assert.deepEqual(contents(new RunReader(phases)), contents(whole));
  rmSync(new RunReader(broken).stagePath(1, "selected"));
  await assert.rejects(train(config, broken), /Expected the selected trajectories of stage 1/);
});

test("an objective on final latents trains every image below an edge, and replays them too", async () => {
  await import(join(repository, "dist/examples/plugins/objective.js"));
  const config = tinyConfig(tree, {
    objective: { name: "awr" },
    select: { mode: "all" },
    interval: { first: 3, last: 3 },
    train: { epochs: 1, samplesPerUpdate: 100 },
    replay: { stages: 1, share: 0.25 },
  });
  const run = await train(config, join(temporaryFolder(), "awr"));
  // Three roots of four images, each with an edge of two steps and one of one step.
  const [first, second] = run.metrics();
  assert.equal(first!.pairs, 3 * 4 * 3);
  assert.ok(second!.pairs >= 36 + 6 && second!.pairs <= 36 + 12, `${second!.pairs}`);
  const counted = estimate(config);
  assert.equal(counted.images, 2 * 12);
  // Guided: two passes a step. A root's first step, 2 edges of two steps, 4 of one; in two stages.
  assert.equal(counted.samplingPasses, 2 * 3 * (1 + 4 + 4) * 2);
});

test("a stage that selected nothing leaves nothing to replay", async () => {
  const config = tinyConfig({ stages: 3, replay: { stages: 1 }, select: { positiveThreshold: 0.1 } });
  let calls = 0;
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), config, {
    // The images of a stage come in one batch.
    reward: (images, prompts) => (calls++ === 0 ? prompts.map(() => 1) : redness(images)),
  });
  await trainer.runAll();
  const metrics = trainer.run.metrics();
  trainer.dispose();
  assert.equal(metrics[0]!.selected, 0);
  assert.ok(metrics[1]!.selected > 0);
  assert.equal(metrics[1]!.pairs, metrics[1]!.selected * 2 * config.train.epochs);
  assert.ok(metrics[2]!.pairs > metrics[2]!.selected * 3 * config.train.epochs);
});

test("splits that lie outside the interval are refused", () => {
  const refused = [[{ at: 2, count: 2 }], [{ at: 1, count: 2 }, { at: 1, count: 2 }]]; // prettier-ignore
  for (const splits of refused) {
    assert.throws(
      () => tinyConfig({ branch: { splits } }),
      /falling values of at for branch.splits, below interval.fir/,
    );
  }
  assert.throws(() => tinyConfig({ branch: { splits: [{ at: 1 }] } }), /a number for branch.splits.0.count/);
});
