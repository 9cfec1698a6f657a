import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../../test/support/folders.js";
import { promptsOfStage, readPrompts } from "../rollout/prompts.js";
import { presets } from "./presets.js";
import { ConfigError, differences, parseAssignments, readConfigFile, resolveConfig } from "./resolve.js";
import type { Config } from "./schema.js";

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
  assert.equal(config.objective["clipRange"], 0.1);
  assert.equal(config.train.learningRate, 1e-4);
});

test("presets differ from b2 in what they are named for", () => {
  const keys = (name: keyof typeof presets): string[] =>
    differences(resolveConfig(presets.b2), resolveConfig(presets[name]))
      .map(({ key }) => key)
      .sort();
  assert.deepEqual(keys("ddpo"), [
    "branch.count",
    "interval.first",
    "interval.last",
    "sample.rootsPerStage",
    "select.mode",
  ]);
  assert.deepEqual(keys("ddpo-bpt"), ["branch.count", "sample.rootsPerStage", "select.mode"]);
  assert.deepEqual(keys("ddpo-bs"), ["interval.first", "interval.last"]);
  assert.deepEqual(keys("branch-centred"), ["advantage.mode"]);
  assert.deepEqual(keys("group-relative"), ["advantage.mode"]);
  assert.deepEqual(keys("step-weights"), ["train.stepWeights"]);
  assert.deepEqual(keys("window"), ["sample.noise"]);
  assert.deepEqual(keys("tree"), ["branch.count", "branch.splits"]);
  assert.deepEqual(keys("replay"), ["replay.stages"]);
  assert.deepEqual(keys("tight-clip"), ["objective.clipRange"]);
  // Where and with what it computes, its prompts, and nothing of the method.
  const ofMachine =
    /^(model|eval|prompts)\.|^rewards\.0\.model$|\.(batchSize|decodeBatchSize|microBatch|gradientCheckpointing)$/;
  assert.deepEqual(
    keys("sd").filter((key) => !ofMachine.test(key)),
    [],
  );
});

test("the demos have the same prompts, evaluation and images a stage", () => {
  const [demo, ...others] = (["demo", "demo-b2", "demo-ddpo"] as const).map((name) => resolveConfig(presets[name]));
  const images = ({ sample, branch }: Config): number => sample.rootsPerStage * branch.count;
  for (const other of others) {
    assert.deepEqual([other.prompts, other.eval, other.lora], [demo!.prompts, demo!.eval, demo!.lora]);
    assert.equal(images(other), images(demo!));
    assert.equal(
      promptsOfStage(readPrompts(other.prompts.train), 3, other).at(-1),
      promptsOfStage(readPrompts(demo!.prompts.train), 3, demo!).at(-1),
    );
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

test("values of --set that would fill the memory or the stack are refused", () => {
  for (const assignment of ["rewards.4000000000=1", "rewards.999999999.weight=2"]) {
    assert.throws(() => resolveConfig(parseAssignments([assignment])), {
      name: "ConfigError",
      message: /Expected numbers below 10000 for the items of a list but received "\d+"/,
    });
  }
  const nested = "[".repeat(100_000) + "]".repeat(100_000);
  for (const assignment of [`${"a.".repeat(100_000)}a=1`, `seed=${nested}`]) {
    assert.throws(() => parseAssignments([assignment]), {
      name: "ConfigError",
      message: /Expected at most 50 keys in each other for --set but received/,
    });
  }
});

test("every problem is told at once, with the key that was meant", () => {
  const problems = problemsOf({
    branch: { cuont: 5 },
    train: { lerningRate: 1 },
    objective: { clipRange: 2, beta: 1 },
    scheduler: { noise: "flow-sde" },
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
      "Unknown key objective.beta of ppo; set objective.name to dpo or forward for it",
      "Unknown key scheduler.noise of ddim; set scheduler.name to flow-match for it",
      "Expected less than 1 for objective.clipRange but received 2",
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
    [{ train: { learningRate: NaN } }, /a finite number for train.learningRate/],
    [{ train: { learningRate: Infinity } }, /a finite number for train.learningRate/],
    [{ sample: { eta: 0 } }, /a scheduler with noise, such as eta over 0, for the objective ppo/],
    [{ sample: { eta: -1 } }, /at least 0 for scheduler.eta/],
    [{ scheduler: { eta: 0 }, objective: { name: "forward" } }, /branch.count 1 for a scheduler without noise/],
    [
      { objective: { name: "forward", timesteps: 2 }, train: { timestepFraction: 0.5 } },
      /train.timestepFraction 1 beside objective.timesteps/,
    ],
    [
      { objective: { name: "forward", minTimestep: 9, maxTimestep: 8 } },
      /minTimestep to be at most objective.maxTimestep/,
    ],
    [
      { train: { stepWeights: "change" }, objective: { name: "dpo" } },
      /"none" for the objective dpo, which uses no advan/,
    ],
    [
      { advantage: { mode: "group-relative", historyStages: 3 } },
      /no advantage.historyStages for advantage.mode "group-relative"/,
    ],
    [
      { advantage: { historyImages: 8, minImages: 9 } },
      /minImages to be at most advantage.historyImages \(8\) but received 9/,
    ],
    [
      { objective: { name: "forward" }, train: { oldLogProbs: "recomputed" } },
      /no train.oldLogProbs for the objective forward/,
    ],
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
  assert.throws(() => readConfigFile(join(folder, "none.json")), /none.json: Expected a readable text file/);
  writeFileSync(join(folder, "bad.json"), "{");
  assert.throws(() => readConfigFile(join(folder, "bad.json")), /bad.json: Expected JSON/);
  writeFileSync(join(folder, "list.json"), "[]");
  assert.throws(() => readConfigFile(join(folder, "list.json")), /list.json: Expected a JSON object/);
});

test("presets go on top of each other", () => {
  const config = resolveConfig(presets.sd, presets.ddpo);
  assert.equal(config.model.path, "CompVis/stable-diffusion-v1-4");
  assert.deepEqual([config.branch.count, config.select.mode, config.sample.batchSize], [1, "all", 16]);
  assert.deepEqual(resolveConfig(presets.ddpo, presets.sd), config);
});

test("configs of 0.1.0 are read", () => {
  const old = {
    sample: { eta: 0.5, steps: 10 },
    interval: { first: 5, last: 10 },
    model: { vaeTiling: true },
    reward: { name: "clip-score", model: "some/clip", batchSize: 7 },
    lora: { targetModules: ["to_q", "to_k", "to_v", "to_out.0"] },
    train: { parameters: "unet", objective: "ppo", clipRange: 0.2, dpoBeta: 0.1, epochs: 3 },
  };
  const config = resolveConfig(old);
  assert.deepEqual(config.scheduler, { name: "ddim", eta: 0.5 });
  assert.deepEqual(config.rewards, resolveConfig({ rewards: [{ name: "clip-score", model: "some/clip" }] }).rewards);
  assert.deepEqual(config.objective, { name: "ppo", clipRange: 0.2, kl: 0 });
  assert.equal(config.sample.decodeBatchSize, 7);
  assert.equal(config.model.tiling, true);
  assert.deepEqual([config.train.parameters, config.train.epochs], ["full", 3]);
  assert.deepEqual(resolveConfig({ train: { objective: "dpo", dpoBeta: 0.3 } }).objective, {
    name: "dpo",
    clipRange: 0.1,
    beta: 0.3,
    reference: "sampler",
  });
  assert.deepEqual(
    resolveConfig({ reward: { name: "brightness", model: "models/emoji-clip" } }).rewards[0]!.name,
    "brightness",
  );
});

test("rewards are named in short or in full, and one of a list is changed by its index", () => {
  const names = (rewards: unknown): unknown[] =>
    resolveConfig({ rewards }).rewards.map(({ name, model, path }) => [name, model ?? path]);
  assert.deepEqual(names("brightness"), [["brightness", undefined]]);
  assert.deepEqual(names(["clip:my/clip", "./mine.js"]), [
    ["clip-score", "my/clip"],
    ["module", "./mine.js"],
  ]);
  const config = resolveConfig(
    { rewards: ["clip-score", "brightness"] },
    parseAssignments(["rewards.1.weight=0.5", "rewards.0.model=other"]),
  );
  assert.deepEqual(
    config.rewards.map(({ weight }) => weight),
    [1, 0.5],
  );
  assert.equal(config.rewards[0]!["model"], "other");
  assert.deepEqual(
    resolveConfig(parseAssignments(["rewards.0.weight=2"])).rewards.map(({ name, weight }) => [name, weight]),
    [["clip-score", 2]],
  );
  const quality = parseAssignments(["rewards=jpeg-compressibility", "rewards.0.quality=50"]);
  assert.equal(resolveConfig(quality).rewards[0]!["quality"], 50);
  assert.match(problemsOf({ rewards: [] }).join(), /rewards not to be empty/);
  assert.match(
    problemsOf({ rewards: ["brightnes"] }).join(),
    /for the reward but received "brightnes"; did you mean brightness\?/,
  );
  assert.match(problemsOf({ rewards: ["brightness", "brightness"] }).join(), /received brightness twice/);
  assert.match(problemsOf({ rewards: [{ name: "brightness", model: "x" }] }).join(), /Unknown key rewards.0.model/);
});

test("another objective keeps the options that it shares, and refuses what it does not know", () => {
  const dpo = resolveConfig(presets["demo-b2"], parseAssignments(["objective.name=dpo"])).objective;
  assert.deepEqual(dpo, { name: "dpo", clipRange: 3e-4, beta: 0.1, reference: "sampler" });
  const back = resolveConfig({ objective: { name: "dpo", beta: 0.5 } }, { objective: { name: "ppo" } }).objective;
  assert.deepEqual(back, { name: "ppo", clipRange: 0.1, kl: 0 });
  assert.match(problemsOf({ objective: { name: "ppo", beta: 1 } }).join(), /Unknown key objective.beta/);
  assert.match(
    problemsOf({ objective: { name: "pppo" } }).join(),
    /for the objective but received "pppo"; did you mean ppo\?/,
  );
  assert.match(
    problemsOf({ scheduler: { name: "euler" } }).join(),
    /Expected ddim or flow-match for the scheduler but received "euler"/,
  );
});

test("differences name both values and what they affect", () => {
  const found = differences(
    resolveConfig({}),
    resolveConfig({ seed: 1, record: { images: 0 }, sample: { batchSize: 1 } }),
  );
  assert.deepEqual(found, [
    { key: "seed", before: 42, after: 1, affects: undefined },
    { key: "sample.batchSize", before: 40, after: 1, affects: "rounding" },
    { key: "record.images", before: 8, after: 0, affects: "nothing" },
  ]);
});
