// A run folder is read without libtorch, and what is not a run folder is refused.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { RunError, RunReader } from "../src/runs/reader.js";
import { RunWriter } from "../src/runs/writer.js";
import { repository, temporaryFolder } from "./support/folders.js";

test("the reader does not load libtorch", () => {
  const folder = join(temporaryFolder(), "run");
  RunWriter.create(folder, { config: { seed: 1 }, reward: "config" });
  const program = `
    const { RunReader } = await import(${JSON.stringify(join(repository, "dist/src/runs/reader.js"))});
    console.log(JSON.stringify(new RunReader(${JSON.stringify(folder)}).config()));`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    env: { ...process.env, LIBTORCH: "/no/such/libtorch" },
  });
  assert.equal(stdout, '{"seed":1}\n', stderr);
});

test("other folders, later versions and damaged files are refused", () => {
  assert.throws(() => new RunReader("/no/such/run"), /Expected a run folder/);
  const folder = join(temporaryFolder(), "run");
  const begun = { config: {}, reward: "config" } as const;
  const run = RunWriter.create(folder, begun).reader;
  assert.throws(() => RunWriter.create(folder, begun), /Expected a folder without a run/);
  assert.deepEqual(run.finishedStages(), []);
  assert.throws(() => run.samples(0), RunError);
  writeFileSync(join(folder, "run.json"), JSON.stringify({ format: "b2-run", version: 99 }));
  assert.throws(() => new RunReader(folder), /Expected a version up to 2/);
  writeFileSync(join(folder, "run.json"), "{");
  assert.throws(() => new RunReader(folder), /run.json: Expected JSON/);
});

describe("numbers that are none are refused where they are read, not where they are used", () => {
  const folder = join(temporaryFolder(), "run");
  const run = RunWriter.create(folder, { config: {}, reward: "config" }).reader;
  const cost = { queries: 1, forwardPasses: 1, backwardPasses: 1, seconds: 1, processorSeconds: 1 };
  const metrics = { stage: 0, rewardMean: 0.5, images: 4, objective: { kl: 0.1 }, cost };
  const interval = { stage: 0, first: 1, last: 2, shares: [{ steps: 1, share: 0.5, low: null, high: null }], cost };
  const files = {
    "stages/0000/stage.json": [metrics, () => run.stageMetrics(0)],
    "stages/0000/partial.json": [{ sample: 1, rewards: { a: 1 }, costs: { sample: cost } }, () => run.partial(0)],
    "intervals/0000.json": [interval, () => run.interval(0)],
  } as const;
  const wrong = {
    "stages/0000/stage.json": ["ratioMax", "rewards", "objective", "cost"],
    "stages/0000/partial.json": ["score", "rewards", "costs"],
    "intervals/0000.json": ["first", "shares", "cost"],
  } as const;
  for (const [name, [sound, read]] of Object.entries(files)) {
    const file = join(folder, name);
    for (const key of wrong[name as keyof typeof wrong]) {
      test(`${key} of ${name}`, () => {
        mkdirSync(dirname(file), { recursive: true });
        writeFileSync(file, JSON.stringify(sound));
        read();
        writeFileSync(file, JSON.stringify({ ...sound, [key]: { a: ["text"] } }));
        assert.throws(read, (error: Error) => {
          assert.ok(error instanceof RunError);
          assert.ok(error.message.includes(file) && error.message.endsWith(`others for ${key}`), error.message);
          return true;
        });
      });
    }
  }

  test("what earlier versions did not measure is null", () => {
    writeFileSync(join(folder, "stages/0000/stage.json"), JSON.stringify(metrics));
    assert.equal(run.stageMetrics(0).firstRatioMin, null);
  });
});
