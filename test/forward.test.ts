/**
 * Training on the forward process, on the narrow model of the golden vectors: which timesteps, the same bits whatever
 * the batches and interruptions, and samplers that no other objective can learn from.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Trainer, type Config } from "../src/b2/index.js";
import { timestepsOfStage } from "../src/b2/update/timesteps.js";
import { RunReader } from "../src/runs/index.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyConfig } from "./support/tiny.js";

const forward = (options: object = {}, ...layers: object[]): Config =>
  tinyConfig({ objective: { name: "forward", ...options }, rewards: ["brightness"] }, ...layers);

/** Runs a config's stages up to `until`; the weights after each, and the updates. */
async function train(config: Config, folder: string, until = config.stages): Promise<unknown> {
  const trainer = await Trainer.open(folder, config);
  trainer.restore(trainer.nextStage);
  for (let stage = trainer.nextStage; stage < until; stage++) await trainer.runStage(stage);
  trainer.dispose();
  const run = new RunReader(folder);
  return run.finishedStages().map((stage) => ({
    updates: run.updates(stage),
    lora: readFileSync(run.stagePath(stage, "lora")).toString("base64"),
  }));
}

describe("the timesteps of the forward process", () => {
  const trajectory = [751, 501, 251, 1];
  const trainSet = { stage: 1, timesteps: [501, 251, 1] };
  const drawn = (config: Config, { root = 0, epoch = 0 } = {}) =>
    timestepsOfStage(trainSet, config, trajectory)({ index: root, first: { root, branch: 0, prompt: "" }, epoch });
  const numbers = (...args: Parameters<typeof drawn>): number[] => drawn(...args).map(({ timestep }) => timestep);
  const sorted = (...args: Parameters<typeof drawn>): number[] => numbers(...args).sort((a, b) => b - a);

  it("are the interval's where roots have branches, else the trajectory's, within bounds", () => {
    const alone = { branch: { count: 1 } };
    assert.deepEqual(sorted(forward()), [501, 251, 1]);
    assert.deepEqual(sorted(forward({ timestepsWithin: "trajectory" })), trajectory);
    assert.deepEqual(sorted(forward({}, alone)), trajectory);
    assert.deepEqual(sorted(forward({ timestepsWithin: "interval" }, alone)), [501, 251, 1]);
    assert.deepEqual(sorted(forward({ maxTimestep: 700, minTimestep: 2 }, alone)), [501, 251]);
    assert.deepEqual(sorted(forward({}, alone, { interval: { skipLast: 1 } })), [751, 501, 251]);
  });

  it("are drawn without repetition, other ones and with other noise for every sample and epoch", () => {
    const two = forward({ timesteps: 2, timestepsWithin: "trajectory" });
    const all = Array.from({ length: 20 }, (_, root) => numbers(two, { root }));
    assert.ok(all.every((some) => new Set(some).size === 2));
    assert.deepEqual(
      [...new Set(all.flat())].sort((a, b) => b - a),
      trajectory,
    );
    const draws = [0, 1].flatMap((epoch) => drawn(forward(), { epoch }).map(({ draw }) => draw));
    assert.equal(new Set(draws).size, 6);
    assert.deepEqual(sorted(forward({ timesteps: 9 })), [501, 251, 1]);
  });

  it("are spread over all timesteps, one in each equal part", () => {
    const any = forward({ timesteps: 5, timestepsFrom: "any", timestepsWithin: "trajectory", maxTimestep: 499 });
    for (const root of [0, 1, 2]) {
      const parts = numbers(any, { root }).map((t) => Math.floor(t / 100));
      assert.deepEqual(parts, [0, 1, 2, 3, 4]);
    }
    assert.notDeepEqual(numbers(any, { root: 0 }), numbers(any, { root: 1 }));
    assert.notDeepEqual(numbers(any, { epoch: 0 }), numbers(any, { epoch: 1 }));
  });

  it("must exist in the first stage", async () => {
    const folder = join(temporaryFolder(), "none");
    await assert.rejects(
      Trainer.open(folder, forward({ minTimestep: 600 })),
      /Expected a timestep of the first stage's interval, 1 to 251, within objective.minTimestep .* but received 600 and none/,
    );
    assert.ok(!RunReader.exists(folder));
  });
});

describe("learning on the forward process", () => {
  it("gives the same bits when it is interrupted, and learns", async () => {
    const config = forward({ kl: 0.1 }, { stages: 3 });
    const whole = (await train(config, join(temporaryFolder(), "whole"))) as { lora: string }[];
    const folder = join(temporaryFolder(), "resumed");
    await train(config, folder, 1);
    assert.deepEqual(await train(config, folder), whole);
    assert.equal(new Set(whole.map(({ lora }) => lora)).size, 3);
    const { objective, pairs } = new RunReader(folder).stageMetrics(2);
    assert.deepEqual(Object.keys(objective), ["optimality", "positive", "negative", "drift", "baseKl"]);
    assert.ok(pairs > 0 && objective["drift"]! > 0 && objective["baseKl"]! > 0);
  });

  it("does not depend on micro-batches but for rounding", async () => {
    const of = async (microBatch: number): Promise<number[]> => {
      const config = forward({ timestepsFrom: "any" }, { stages: 1, train: { microBatch } });
      const folder = join(temporaryFolder(), `batches-${microBatch}`);
      await train(config, folder);
      return new RunReader(folder).updates(0).flatMap(({ loss, gradNorm }) => [loss, gradNorm]);
    };
    const [one, many] = [await of(2), await of(16)];
    one.forEach((value, i) => assert.ok(Math.abs(value / many[i]! - 1) < 1e-4, `${value} for ${many[i]}`));
  });

  it("takes samplers without noise, with guidance in sampling alone", async () => {
    const config = forward(
      {},
      {
        scheduler: { eta: 0 },
        branch: { count: 1 },
        select: { mode: "all" },
        prompts: { order: "fixed", fixed: "a cat" },
      },
    );
    const [first] = (await train(config, join(temporaryFolder(), "eta"), 1)) as { updates: { loss: number }[] }[];
    assert.ok(first!.updates.length > 0 && first!.updates.every(({ loss }) => Number.isFinite(loss)));
  });
});
