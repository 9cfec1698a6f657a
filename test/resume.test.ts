// Runs that go on: to the same bits, with other resources, and not with what would make them another run.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fs, { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { describe, it, mock } from "node:test";
import { resolveConfig, sampleStage, selectStage, Trainer, trainStage, type ConfigInput } from "../src/b2/index.js";
import { RunReader, RunWriter } from "../src/runs/index.js";
import { b2, warmB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

/** Every file below a folder with its digest. */
function digests(of: string): Record<string, string> {
  const files = readdirSync(of, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(
    files.map(({ parentPath, name }) => {
      const bytes = readFileSync(join(parentPath, name));
      return [join(parentPath, name), createHash("sha256").update(bytes).digest("hex")];
    }),
  );
}

async function runStages(run: string, config: ConfigInput, count: number, reward?: typeof redness): Promise<void> {
  const trainer = await Trainer.open(run, config, { reward });
  try {
    for (let stage = 0; stage < count; stage++) await trainer.runStage(stage);
  } finally {
    trainer.dispose();
  }
}

describe("a run with clip-score and prompts in random order", () => {
  const config = tinyConfig({
    stages: 3,
    model: { threads: 1 },
    prompts: { train: ["a cat", "a dog", "red apple", "blue banana", "a fox washing dishes", "star on house"] },
    sample: { rootsPerStage: 4 },
    rewards: [{ name: "clip-score", model: "models/emoji-clip" }],
    select: { mode: "all" },
    record: { images: 0 },
  });
  const whole = join(folder, "whole");
  const loras = (run: string): string[] => {
    const reader = new RunReader(run);
    return reader.finishedStages().map((stage) => {
      const bytes = readFileSync(reader.stagePath(stage, "lora"));
      return createHash("sha256").update(bytes).digest("hex");
    });
  };

  it("comes to the same LoRAs when it goes on at any stage, in a program or from the command line", async () => {
    await runStages(whole, config, 3);
    assert.equal(new Set(loras(whole)).size, 3);
    // The test would show nothing if the first stage met every prompt.
    const met = new Set(new RunReader(whole).samples(0).map(({ prompt }) => prompt));
    const later = [1, 2].map((stage) => new RunReader(whole).samples(stage).map(({ prompt }) => prompt));
    for (const prompts of later) assert.ok(prompts.filter((prompt) => !met.has(prompt)).length > 0, prompts.join());

    for (const first of [1, 2]) {
      const resumed = join(folder, `from-${first}`);
      cpSync(whole, resumed, { recursive: true });
      for (let stage = first; stage < 3; stage++) {
        rmSync(join(resumed, "stages", `000${stage}`), { recursive: true });
      }
      const again = join(folder, `from-${first}-cli`);
      cpSync(resumed, again, { recursive: true });
      const trainer = await Trainer.open(resumed, config);
      assert.equal(trainer.nextStage, first);
      await trainer.runAll();
      trainer.dispose();
      assert.deepEqual(loras(resumed), loras(whole), `resumed at stage ${first}`);

      const { code, stderr } = await b2("run", again);
      assert.equal(code, 0, stderr);
      assert.deepEqual(loras(again), loras(whole), `b2 run, resumed at stage ${first}`);
    }
  });

  it("comes to the same LoRAs phase by phase", async () => {
    const phases = join(folder, "phases");
    for (let stage = 0; stage < 3; stage++) {
      for (const phase of [sampleStage, selectStage, trainStage]) {
        const trainer = await Trainer.open(phases, config);
        await phase(trainer, stage);
        trainer.dispose();
      }
    }
    assert.deepEqual(loras(phases), loras(whole));
  });
});

describe("a reward of the program's own", () => {
  it("is not replaced by the config's, which never scored", async () => {
    const run = join(folder, "program");
    await runStages(run, tinyConfig(), 1, redness);
    const before = digests(run);
    for (const command of ["run", "sample"]) {
      const { code, stdout, stderr } = await warmB2(command, run);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /^b2: Expected the reward of the program that began the run in .*program/m);
      assert.doesNotMatch(stderr, /\n +at /);
      assert.equal(stdout, "");
    }
    assert.deepEqual(digests(run), before);
  });

  it("does not replace the config's", async () => {
    const run = join(folder, "config");
    const config = tinyConfig({ rewards: ["brightness"] });
    await runStages(run, config, 1);
    const before = digests(run);
    await assert.rejects(Trainer.open(run, config, { reward: redness }), {
      name: "InputError",
      message: /Expected the rewards of the config, .* but received the program's own reward/,
    });
    assert.deepEqual(digests(run), before);
  });
});

describe("a run that is begun", () => {
  const run = join(folder, "resources");
  const values = { ...tinyValues, stages: 3, rewards: ["brightness"], eval: { ...tinyValues.eval, enabled: true } };
  const changes = [
    ["model.threads", null, 1],
    ["sample.batchSize", 4, 2],
    ["train.microBatch", 5, 2],
    ["record.images", 2, 0],
    ["eval.enabled", true, false],
  ] as const;

  it("goes on with other resources, which its config.json then has, and says which", async () => {
    const config = resolveConfig(values);
    await runStages(run, config, 1);
    const settings = changes.flatMap(([key, , value]) => ["--set", `${key}=${value}`]);
    const { code, stderr } = await b2("run", run, ...settings);
    assert.equal(code, 0, stderr);
    const named = [...stderr.matchAll(/resuming with (.*)$/gm)].map(([, change]) => change);
    assert.deepEqual(named.sort(), changes.map(([key, before, after]) => `${key}: ${before} -> ${after}`).sort());
    // Over the run's own config: everything that was not named stays.
    const expected = resolveConfig(values, {
      model: { threads: 1 },
      sample: { batchSize: 2 },
      train: { microBatch: 2 },
      record: { images: 0 },
      eval: { enabled: false },
    });
    const reader = new RunReader(run);
    assert.deepEqual(reader.config(), JSON.parse(JSON.stringify(expected)));
    assert.deepEqual(reader.finishedStages(), [0, 1, 2]);
    assert.ok(existsSync(reader.stagePath(0, "images")) && !existsSync(reader.stagePath(1, "images")));
  });

  it("is not changed in what decides its results; the refusal names those keys, with both values, and no others", async () => {
    const before = digests(run);
    const settings = ["seed=1", "train.learningRate=0.002", "sample.batchSize=3"].flatMap((set) => ["--set", set]);
    const { code, stderr } = await warmB2("run", run, ...settings);
    assert.equal(code, 2, stderr);
    const lines = [...stderr.matchAll(/^ {2}(.*)$/gm)].map(([, line]) => line);
    assert.deepEqual(lines.sort(), ["seed: 42 -> 1", "train.learningRate: 0.001 -> 0.002"]);
    assert.doesNotMatch(stderr, /batchSize/);
    assert.deepEqual(digests(run), before);
  });
});

describe("a run without a finished stage", () => {
  it("begins anew under another config, and what its first attempt left is gone", async () => {
    const run = join(folder, "anew");
    const nan = join(folder, "nan.mjs");
    writeFileSync(nan, "let calls = 0;\nexport default (_, prompts) => prompts.map(() => (++calls > 16 ? NaN : 1));\n");
    const file = join(folder, "anew.json");
    // 16 images are scored by the evaluation before; the first stage's are the ones without a reward.
    const evaluated = { ...tinyValues.eval, enabled: true, sheet: 2, imagesPerPrompt: 4 };
    writeFileSync(file, JSON.stringify({ ...tinyValues, rewards: [nan], eval: evaluated }));
    const failed = await b2("run", run, "--config", file);
    assert.equal(failed.code, 2, failed.stderr);
    assert.match(failed.stderr, /Expected a finite number from the reward nan/);
    for (const left of ["before.png", "eval/before.json", "stages/0000"]) assert.ok(existsSync(join(run, left)), left);

    writeFileSync(file, JSON.stringify({ ...tinyValues, stages: 1, rewards: ["brightness"], seed: 1 }));
    const mended = await b2("run", run, "--config", file);
    assert.equal(mended.code, 0, mended.stderr);
    assert.deepEqual(readdirSync(run).sort(), ["config.json", "metrics.jsonl", "reward.png", "run.json", "stages"]);
    assert.deepEqual(readdirSync(join(run, "stages")), ["0000"]);
    assert.equal(new RunReader(run).config()["seed"], 1);
  });

  it("keeps what b2 sample has sampled, and its config", async () => {
    const run = join(folder, "sampled");
    const file = join(folder, "sampled.json");
    writeFileSync(file, JSON.stringify({ ...tinyValues, rewards: ["brightness"] }));
    const sampled = await b2("sample", run, "--config", file);
    assert.equal(sampled.code, 0, sampled.stderr);
    const other = await warmB2("select", run, "--config", file, "--set", "seed=5");
    assert.equal(other.code, 2);
    assert.match(other.stderr, /seed: 42 -> 5/);
    assert.ok(new RunReader(run).has(0, "sampledTensors"));
  });

  it("can be begun anew though an earlier try to do so was cut off at any file", () => {
    const begin = (run: string): void => {
      const writer = RunWriter.create(run, { config: { seed: 1 }, reward: "config" });
      writer.beginStage(0);
      writer.writeSampled(0, {});
      writer.writeEvaluation("before", { rows: [] });
      writeFileSync(writer.picturePath("before.png"), "");
    };
    const anew = { config: { seed: 2 }, reward: "config" } as const;
    const { rmSync: remove } = fs;
    for (let cut = 0, finished = false; !finished; cut++) {
      assert.ok(cut < 20);
      const run = join(folder, `cut-${cut}`);
      begin(run);
      let calls = 0;
      const mocked = mock.method(fs, "rmSync", (path: string, options: fs.RmOptions) => {
        if (calls++ === cut) throw new Error("cut off");
        remove(path, options);
      });
      syncBuiltinESMExports();
      try {
        RunWriter.recreate(run, anew);
        finished = true;
        assert.ok(cut > 2, "removals were seen");
      } catch (error) {
        assert.equal((error as Error).message, "cut off");
      } finally {
        mocked.mock.restore();
        syncBuiltinESMExports();
      }
      if (!finished && RunReader.exists(run)) RunWriter.recreate(run, anew);
      else if (!finished) RunWriter.create(run, anew);
      assert.deepEqual(readdirSync(run).sort(), ["config.json", "run.json"], `cut off at removal ${cut}`);
      assert.deepEqual(new RunReader(run).config(), { seed: 2 });
    }
  });
});
