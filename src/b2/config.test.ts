import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { isHeldOut, parseCaption } from "../world/index.js";
import { presets } from "./presets.js";
import { ConfigError, differingKeys, parseAssignments, readConfigFile, resolveConfig } from "./resolve-config.js";
import { temporaryFolder } from "../../test/support/folders.js";

const problemsOf = (...layers: unknown[]): readonly string[] => {
  try {
    resolveConfig(...layers);
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.problems;
  }
  return [];
};

test("an empty config is the reference's", () => {
  const config = resolveConfig({});
  assert.equal(config.sample.steps, 20);
  assert.equal(config.sample.guidanceScale, 5);
  assert.equal(config.branch.count, 5);
  assert.equal(config.sample.rootsPerStage * config.branch.count, 1280);
  assert.deepEqual([config.interval.first, config.interval.last, config.stages], [14, 20, 100]);
  assert.deepEqual([config.select.positiveThreshold, config.select.negativeThreshold], [0.5, -0.5]);
  assert.equal(config.train.clipRange, 0.1);
  assert.equal(config.train.learningRate, 1e-4);
});

test("presets differ from b2 in what they are named for", () => {
  const keys = (name: keyof typeof presets): string[] => differingKeys(presets.b2(), presets[name]()).sort();
  assert.deepEqual(keys("ddpo"), ["branch.count", "interval.first", "sample.rootsPerStage", "select.mode"]);
  assert.deepEqual(keys("ddpo-bpt"), ["branch.count", "sample.rootsPerStage", "select.mode"]);
  assert.deepEqual(keys("ddpo-bs"), ["interval.first"]);
  // Where and with what it computes, and nothing of the method.
  const ofMachine = /^(model|eval|reward)\.|\.(batchSize|microBatch|gradientCheckpointing)$/;
  assert.deepEqual(
    keys("sd").filter((key) => !ofMachine.test(key)),
    [],
  );
  assert.ok(presets.demo().stages > 0);
});

test("the demo trains on captions of the embedded world that are not held out", () => {
  const { train } = presets.demo().prompts;
  assert.ok(Array.isArray(train));
  for (const prompt of train) {
    const scene = parseCaption(prompt);
    assert.ok(scene !== undefined && !isHeldOut(scene), prompt);
  }
});

test("later layers override earlier ones key by key", () => {
  const config = resolveConfig({ branch: { count: 3 }, sample: { steps: 30 } }, parseAssignments(["branch.count=4"]));
  assert.equal(config.branch.count, 4);
  assert.equal(config.sample.steps, 30);
});

test("values of --set are JSON, or strings", () => {
  assert.deepEqual(parseAssignments(["a.b=1", "a.c=x y", "d=[1,2]", "e=null", "f=", "g=a=b"]), {
    a: { b: 1, c: "x y" },
    d: [1, 2],
    e: null,
    f: "",
    g: "a=b",
  });
  assert.throws(() => parseAssignments(["branch.count"]), /Expected key=value for --set/);
});

test("every problem is told at once, with the key that was meant", () => {
  const problems = problemsOf({
    branch: { cuont: 5 },
    train: { lerningRate: 1, clipRange: 2 },
    learningRate: 1,
    sample: { steps: "many" },
    interval: { first: 9, last: 7 },
    select: { mode: "some" },
  });
  assert.deepEqual(
    [...problems].sort(),
    [
      "Unknown key branch.cuont; did you mean branch.count?",
      "Unknown key train.lerningRate; did you mean train.learningRate?",
      "Unknown key learningRate; did you mean train.learningRate?",
      "Expected less than 1 for train.clipRange but received 2",
      'Expected a number for sample.steps but received "many"',
      "Expected interval.first to be at most interval.last (7) but received 9",
      'Expected best-worst or all for select.mode but received "some"',
    ].sort(),
  );
});

test("impossible values are refused", () => {
  const refused: [unknown, RegExp][] = [
    [{ sample: { steps: 10 } }, /interval.last to be at most sample.steps \(10\)/],
    [{ branch: { count: 0 } }, /at least 1 for branch.count but received 0/],
    [{ branch: { count: 2.5 } }, /a whole number for branch.count but received 2.5/],
    [{ train: { learningRate: NaN } }, /a number for train.learningRate/],
    [{ train: { learningRate: Infinity } }, /a number for train.learningRate/],
    [{ sample: { eta: 0 } }, /more than 0 for sample.eta/],
    [{ prompts: { order: "fixed" } }, /prompts.fixed/],
    [{ prompts: { train: [] } }, /prompts.train/],
    [{ train: { objective: "dpo" }, branch: { count: 1 } }, /compares branches/],
    [{ lora: { targetModules: ["to_q", 3] } }, /a string for lora.targetModules.1 but received 3/],
    [{ model: { device: "gpu" } }, /Expected cpu, mps, cuda or cuda:<index> for model.device/],
    [{ branch: null }, /an object for branch but received null/],
    [JSON.parse('{"__proto__": {"polluted": 1}}'), /Unknown key __proto__/],
    [7, /Expected an object for the config but received 7/],
  ];
  for (const [layer, expected] of refused) assert.match(problemsOf(layer).join("\n"), expected);
});

test("a config file that is missing or no JSON object is refused", () => {
  const folder = temporaryFolder();
  assert.throws(() => readConfigFile(join(folder, "none.json")), /Expected a readable config file/);
  writeFileSync(join(folder, "bad.json"), "{");
  assert.throws(() => readConfigFile(join(folder, "bad.json")), /Expected JSON in/);
  writeFileSync(join(folder, "list.json"), "[]");
  assert.throws(() => readConfigFile(join(folder, "list.json")), /Expected a JSON object/);
});
