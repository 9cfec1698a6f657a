// A run folder over its life: finished, given more stages, half lost, killed, damaged, and wanted by two at once.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fs, {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { hostname } from "node:os";
import { basename, join } from "node:path";
import { before, describe, it, mock } from "node:test";
import { affectsOf, configKeys } from "../src/b2/config/walk.js";
import { resolveConfig, Trainer, type Config } from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { silent } from "../src/base/progress.js";
import { Experiment } from "../src/eval/index.js";
import { RunReader } from "../src/runs/index.js";
import { b2, b2With, startB2, type Outcome } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyConfig, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const values = {
  ...tinyValues,
  stages: 4,
  model: { ...tinyValues.model, threads: 1 },
  rewards: ["brightness"],
  eval: { ...tinyValues.eval, enabled: true, every: 2, sheet: 2 },
};
const config = join(folder, "config.json");
writeFileSync(config, JSON.stringify(values));

/** Four stages, undisturbed. */
const whole = join(folder, "whole");
before(async () => {
  await succeeds("run", whole, "--config", config);
});

async function succeeds(...args: string[]): Promise<Outcome> {
  const outcome = await b2(...args);
  assert.equal(outcome.code, 0, outcome.stderr);
  return outcome;
}

/** A copy of the finished run. */
function copy(name: string): string {
  const to = join(folder, name);
  cpSync(whole, to, { recursive: true });
  return to;
}

const stage = (run: string, number: number, ...file: string[]): string => join(run, "stages", `000${number}`, ...file);

const digest = (file: string): string => createHash("sha256").update(readFileSync(file)).digest("hex");
const loras = (run: string): string[] => {
  const reader = new RunReader(run);
  return reader.finishedStages().map((stage) => digest(reader.stagePath(stage, "lora")));
};

async function finish(run: string, of: Config): Promise<void> {
  const trainer = await Trainer.open(run, of);
  try {
    await trainer.runAll();
  } finally {
    trainer.dispose();
  }
}

const stageLines = (stderr: string): string[] =>
  [...stderr.matchAll(/^stage \d+ \((\d+)\/\d+\) {2}reward/gm)].map(([, number]) => number!);

describe("a finished run", () => {
  it("prints its table and how to go on, and loads no libtorch", async () => {
    const { code, stdout, stderr } = await b2With({ LIBTORCH: "/no/such/libtorch" }, "run", whole);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, "");
    assert.match(stdout, /^held-out +reward/m);
    assert.match(stdout, /^all 4 stages are finished; b2 run \S+whole --set stages=8 goes on from there$/m);
  });

  it("goes on with more stages, to the bits of a run that had them from the start", async () => {
    const run = copy("longer");
    const { stderr } = await succeeds("run", run, "--set", "stages=6");
    assert.match(stderr, /^resuming with stages: 4 -> 6$/m);
    assert.match(stderr, /interval grows over the first 4 stages, .*further stages train the last 3 steps/);
    assert.deepEqual(stageLines(stderr), ["5", "6"]);
    const grown = new RunReader(run);
    assert.deepEqual(
      grown.metrics().map(({ trainedSteps }) => trainedSteps),
      [2, 2, 3, 3, 3, 3],
    );
    // What was measured at the former end stays, under the name that it has in a longer run.
    assert.equal(digest(join(run, "eval/stage-0004.json")), digest(join(whole, "eval/after.json")));
    assert.notEqual(digest(join(run, "before-after.png")), digest(join(whole, "before-after.png")));

    const long = join(folder, "long");
    const file = join(folder, "long.json");
    writeFileSync(file, JSON.stringify(grown.config()));
    await succeeds("run", long, "--config", file);
    assert.deepEqual(loras(run), loras(long));
    for (const name of ["stage-0002", "stage-0004", "after"]) {
      assert.equal(digest(join(run, "eval", `${name}.json`)), digest(join(long, "eval", `${name}.json`)), name);
    }
    // Named as they were begun, the run is still itself.
    await succeeds("run", run, "--config", config, "--set", "stages=6");
  });

  it("needs no other schedule where the interval does not grow", async () => {
    const fixed = tinyConfig({ model: { threads: 1 }, rewards: ["brightness"], interval: { first: 2, last: 2 } });
    const [short, long] = [join(folder, "short"), join(folder, "long-fixed")];
    for (const stages of [2, 3]) await finish(short, { ...fixed, stages });
    await finish(long, { ...fixed, stages: 3 });
    assert.deepEqual(loras(short), loras(long));
    assert.deepEqual(new RunReader(short).config(), new RunReader(long).config());
  });

  it("does not shrink, and its schedule is not another one", async () => {
    for (const set of [["stages=3"], ["stages=6", "--set", "interval.stages=6"]]) {
      const { code, stderr } = await b2("run", whole, "--set", ...set);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /^ {2}(stages: 4 -> 3|interval\.stages: null -> 6)$/m);
    }
  });

  it("is measured again where it is measured otherwise", async () => {
    const run = copy("measured");
    await succeeds("run", run, "--set", "eval.imagesPerPrompt=3");
    for (const name of ["before", "stage-0002", "after"]) {
      const { rows } = new RunReader(run).evaluation(name) as { rows: { images: number }[] };
      assert.deepEqual(
        rows.map(({ images }) => images),
        [9, 3],
        name,
      );
    }
    assert.deepEqual(loras(run), loras(whole));
  });
});

describe("what a resume may change", () => {
  const base = tinyConfig({ stages: 3, model: { threads: 1 }, rewards: ["brightness"], eval: { truth: "emoji" } });
  const plugin = join(folder, "idle.mjs");
  writeFileSync(plugin, "");
  /** Another value for every marked key. */
  const others: Readonly<Record<string, unknown>> = {
    stages: 4,
    plugins: [plugin],
    "model.device": "cpu", // device.test.ts resumes on a GPU
    "model.offload": true,
    "model.threads": 2,
    "prompts.heldOut": ["a fox", "a dog"],
    "sample.batchSize": 3,
    "sample.decodeBatchSize": 2,
    "train.microBatch": 2,
    "train.gradientCheckpointing": true,
    "train.mostSkipped": 3,
    "eval.every": 1,
    "eval.enabled": true,
    "eval.steps": 2,
    "eval.noise": "none",
    "eval.imagesPerPrompt": 1,
    "eval.maxPrompts": 1,
    "eval.clip": "models/emoji-clip",
    "eval.truth": "none",
    "eval.sheet": 3,
    "eval.sheetImages": 1,
    "record.images": 0,
    "record.trajectories": 2,
    "record.optimizers": 1,
    "record.phases": "always",
  };
  const run = join(folder, "keys");
  const outcome = (of: string): number[] =>
    new RunReader(of)
      .metrics()
      .slice(0, 3)
      .flatMap(({ rewardMean, loss }) => [rewardMean, loss!]);
  before(() => finish(run, base));

  it("is what the schema marks, and has a value here", () => {
    assert.deepEqual(
      configKeys().filter((key) => affectsOf(key) !== undefined),
      Object.keys(others),
    );
  });

  const layer = (key: string): object => {
    const [section, leaf] = key.split(".") as [string, string?];
    return { [section]: leaf === undefined ? others[key] : { [leaf]: others[key] } };
  };
  /** The run after its first stage. */
  const begun = (name: string): string => {
    const resumed = join(folder, name);
    cpSync(run, resumed, { recursive: true });
    for (const number of [1, 2]) rmSync(stage(resumed, number), { recursive: true });
    return resumed;
  };
  const keys = Object.keys(others);

  it("leaves the bits as they are, with all keys at once that are marked so", async () => {
    const resumed = begun("keys-bits");
    const layers = keys.filter((key) => affectsOf(key) !== "rounding").map(layer);
    const experiment = await Experiment.open(resumed, resolveConfig(base, ...layers));
    await experiment.run();
    experiment.dispose();
    assert.deepEqual(loras(resumed).slice(0, 3), loras(run));
    assert.equal(new RunReader(resumed).nextStage(), 4);
  });

  for (const key of keys.filter((key) => affectsOf(key) === "rounding")) {
    it(`changes no more than rounding does: ${key}`, async () => {
      const resumed = begun(`keys-${key}`);
      await finish(resumed, resolveConfig(base, layer(key)));
      outcome(resumed).forEach((number, i) => {
        const expected = outcome(run)[i]!;
        assert.ok(Math.abs(number - expected) < 1e-3 * Math.abs(expected), `${number} beside ${expected}`);
      });
    });
  }

  it("is not the learning rate, with which the outcome is another by more than rounding", async () => {
    const rate = { train: { learningRate: 1e-2 } };
    await assert.rejects(finish(run, resolveConfig(base, rate)), /learningRate: 0\.001 -> 0\.01/);
    const other = join(folder, "keys-other");
    await finish(other, resolveConfig(base, rate));
    assert.ok(outcome(other).some((number, i) => Math.abs(number - outcome(run)[i]!) > 1e-2 * Math.abs(number)));
  });
});

describe("a run that lost something", () => {
  it("goes on after its latest stage though earlier ones are gone, and says so", async () => {
    for (const lost of [0, 1]) {
      const run = copy(`lost-${lost}`);
      rmSync(stage(run, lost), { recursive: true });
      const finished = await succeeds("run", run);
      assert.deepEqual(stageLines(finished.stderr), []);
      assert.match(finished.stderr, new RegExp(`stage ${lost} is missing in \\S+stages, but stage 3 is finished`));

      const { stderr } = await succeeds("run", run, "--set", "stages=5");
      assert.deepEqual(stageLines(stderr), ["5"]);
      assert.match(stderr, new RegExp(`the rewards of \\S+000${lost} are lost to the history of advantages`));
      assert.deepEqual(
        new RunReader(run).finishedStages(),
        [0, 1, 2, 3, 4].filter((one) => one !== lost),
      );
    }
  });

  it("goes on to the same bits where nothing needs what is gone", async () => {
    const [run, all] = [join(folder, "needless"), join(folder, "needed")];
    const short = tinyConfig({ model: { threads: 1 }, rewards: ["brightness"], advantage: { historyStages: 1 } });
    await finish(run, { ...short, stages: 3 });
    cpSync(run, all, { recursive: true });
    rmSync(stage(run, 0), { recursive: true });
    rmSync(stage(run, 1, "stage.json"));
    for (const one of [run, all]) await finish(one, { ...short, stages: 4 });
    assert.deepEqual(loras(run), loras(all).slice(2));
  });

  it("is refused before any model is read where its latest stage lacks the optimiser state", async () => {
    const run = copy("stateless");
    rmSync(stage(run, 3, "optimizer.safetensors"));
    const { code, stderr } = await b2("run", run, "--set", "stages=5");
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected the optimiser state of stage 3 in \S+stateless but it is gone;.*\n$/);
  });

  it("makes up evaluations, to the same bits", async () => {
    const run = copy("unevaluated");
    for (const name of ["stage-0002", "after"]) rmSync(join(run, "eval", `${name}.json`));
    const { stderr } = await succeeds("run", run);
    assert.match(stderr, /^evaluating after stage 1 \(2\/4\), which was not done$/m);
    for (const name of ["before", "stage-0002", "after"]) {
      assert.equal(digest(join(run, "eval", `${name}.json`)), digest(join(whole, "eval", `${name}.json`)), name);
    }
    // Those that nobody asked for before, too.
    await succeeds("run", run, "--set", "eval.every=1");
    assert.deepEqual(readdirSync(join(run, "eval")).sort(), [
      "after.json",
      "before.json",
      "stage-0001.json",
      "stage-0002.json",
      "stage-0003.json",
    ]);
  });

  it("has its metrics again", async () => {
    const run = copy("unlogged");
    const file = join(run, "metrics.jsonl");
    writeFileSync(file, readFileSync(file, "utf8").split("\n").slice(0, 3).join("\n"));
    await succeeds("run", run);
    assert.equal(digest(file), digest(join(whole, "metrics.jsonl")));
  });
});

describe("a damaged run", () => {
  const cases: readonly (readonly [what: string, damage: (run: string) => void, message: RegExp])[] = [
    [
      "an evaluation without results",
      (run) => writeFileSync(join(run, "eval/before.json"), "{}"),
      /Expected the results of an evaluation in .*before\.json/,
    ],
    [
      "a stage without metrics",
      (run) => writeFileSync(stage(run, 1, "stage.json"), "{}"),
      /Expected a number for stage and rewardMean in .*0001\/stage\.json/,
    ],
    [
      "a file for the stages",
      (run) => {
        rmSync(join(run, "stages"), { recursive: true });
        writeFileSync(join(run, "stages"), "");
      },
      /Expected a folder at .*stages but received a file/,
    ],
    [
      "a folder for metrics.jsonl",
      (run) => {
        rmSync(join(run, "metrics.jsonl"));
        mkdirSync(join(run, "metrics.jsonl"));
      },
      /Expected a file at .*metrics\.jsonl but received a folder/,
    ],
    [
      "rewards of a stage that the next one is compared with",
      (run) => writeFileSync(stage(run, 2, "samples.jsonl"), "{\n"),
      /line 1 of .*0002\/samples\.jsonl/,
    ],
  ];
  for (const [what, damage, message] of cases) {
    it(`is refused in a sentence that names the file, before any model is read: ${what}`, async () => {
      const run = copy(`damaged ${what}`);
      damage(run);
      const log: string[] = [];
      const progress = { ...silent, log: (line: string) => void log.push(line) };
      const longer = resolveConfig(values, { stages: 5 });
      await assert.rejects(Experiment.open(run, longer, { progress }), (error) => {
        assert.ok(error instanceof InputError);
        assert.match(error.message, message);
        return true;
      });
      assert.deepEqual(log, []);
      assert.equal(new RunReader(run).config()["stages"], 4);
      assert.ok(!existsSync(join(run, "run.lock")));
    });
  }
});

describe("a stage", () => {
  it("is not done again while later ones stand on it", async () => {
    const run = copy("again");
    const { code, stderr } = await b2("sample", run, "--stage", "1");
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^b2: Expected the last stage .* received stage 1, after which 2 are finished; .*0002 to \S+0003/,
    );
    assert.deepEqual(loras(run), loras(whole));
    await succeeds("sample", run, "--stage", "3");
    await succeeds("run", run);
    assert.deepEqual(loras(run), loras(whole));
  });

  it("is looked for before any model is read", async () => {
    for (const [phase, message] of [
      ["select", /^b2: Expected the samples of stage 3 .*\n$/],
      ["train", /^b2: Expected the selected trajectories of stage 2 .*\n$/],
    ] as const) {
      const { code, stderr } = await b2(phase, whole, "--stage", phase === "select" ? "3" : "2");
      assert.equal(code, 2);
      assert.match(stderr, message);
    }
    const nowhere = join(folder, "nowhere");
    const { code, stderr } = await b2("sample", nowhere, "--config", config, "--stage", "1");
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected a run in \S+nowhere for stage 1 but received none; run b2 sample first\n$/);
    assert.ok(!existsSync(nowhere));
  });

  it("counts as finished only when all of it is on the disk", async () => {
    const events: string[] = [];
    const nameOf = (fd: number): string => basename(readlinkSync(`/proc/self/fd/${fd}`));
    const { fsyncSync, renameSync } = fs;
    mock.method(fs, "fsyncSync", (fd: number) => {
      events.push(`sync ${nameOf(fd).replace(/\.\d+\.tmp$/, "")}`);
      fsyncSync(fd);
    });
    mock.method(fs, "renameSync", (from: string, to: string) => {
      events.push(`rename ${basename(to)}`);
      renameSync(from, to);
    });
    syncBuiltinESMExports();
    const trainer = await Trainer.open(join(folder, "synced"), tinyConfig({ stages: 1, rewards: ["brightness"] }));
    try {
      await trainer.runAll();
    } finally {
      trainer.dispose();
      mock.restoreAll();
      syncBuiltinESMExports();
    }
    const mark = events.indexOf("rename stage.json");
    assert.deepEqual(events.slice(mark - 5, mark + 2), [
      "sync images",
      "sync 0000",
      "sync stages",
      "sync synced",
      "sync stage.json",
      "rename stage.json",
      "sync 0000",
    ]);
    for (const file of ["pytorch_lora_weights.safetensors", "optimizer.safetensors", "updates.jsonl"]) {
      assert.ok(events.lastIndexOf(`rename ${file}`) < mark && events.includes(`sync ${file}`), file);
    }
  });
});

describe("two processes", () => {
  it("do not work on one run: the second is refused at once, and told by whom; the dead hold nothing", async () => {
    const run = join(folder, "wanted");
    const { child, outcome } = startB2("run", run, "--config", config, "--set", "stages=40");
    await new Promise<void>((begun) => {
      child.stderr!.on("data", (data: Buffer) => data.toString().includes("stage 0 (1/40)  reward") && begun());
    });
    for (const command of ["run", "sample"]) {
      const { code, stderr } = await b2(command, run, "--set", "model.path=/no/such/model");
      assert.equal(code, 2);
      assert.match(
        stderr,
        new RegExp(`^b2: Expected a run that no other process .* process ${child.pid} of the host ${hostname()} works`),
      );
    }
    child.kill("SIGKILL");
    await outcome;
    assert.ok(existsSync(join(run, "run.lock")));
    const reader = new RunReader(run);
    const done = reader.nextStage();
    const left = `${reader.stagePath(0, "lora")}.${child.pid}.tmp`;
    writeFileSync(left, "half");
    writeFileSync(join(run, `config.json.${child.pid}.tmp`), "half");

    const trainer = await Trainer.open(run, resolveConfig(values, { stages: 40 }));
    assert.equal(trainer.nextStage, done);
    assert.deepEqual(
      readdirSync(run, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".tmp")),
      [],
    );
    await assert.rejects(
      Trainer.open(run, resolveConfig(values, { stages: 40 })),
      new RegExp(`process ${process.pid} of the host`),
    );

    // Stopped for so long that another process took over, it does not finish a stage.
    rmSync(join(run, "run.lock"));
    const other = await Trainer.open(run, resolveConfig(values, { stages: 40 }));
    await assert.rejects(trainer.runAll(), /another process has taken the run over/);
    trainer.dispose();
    other.dispose();
    assert.ok(!existsSync(join(run, "run.lock")));
  });

  it("do not begin one run", async () => {
    const run = join(folder, "both");
    const outcomes = await Promise.all([1, 2].map(() => b2("run", run, "--config", config, "--set", "stages=2")));
    assert.deepEqual(outcomes.map(({ code }) => code).sort(), [0, 2], outcomes.map(({ stderr }) => stderr).join());
    assert.deepEqual(new RunReader(run).finishedStages(), [0, 1]);
  });
});

describe("what made a run", () => {
  it("is in its folder; another libtorch or processor is noted, in one line and in the folder", async () => {
    const run = copy("made");
    const file = join(run, "run.json");
    const json = JSON.parse(readFileSync(file, "utf8")) as { madeBy: Record<string, unknown>[] };
    const [maker] = json.madeBy;
    assert.deepEqual(Object.keys(maker!), ["fromStage", "at", "b2", "libtorch", "processor", "threads", "device"]);
    assert.deepEqual([maker!["threads"], maker!["device"]], [1, "cpu"]);
    writeFileSync(file, JSON.stringify({ ...json, madeBy: [{ ...maker, libtorch: "0.1", processor: "abacus" }] }));
    const { stderr } = await succeeds("run", run, "--set", "stages=5", "--set", "model.threads=2");
    const lines = stderr.split("\n").filter((line) => line.includes("abacus"));
    assert.equal(lines.length, 1, stderr);
    assert.match(lines[0]!, /^resuming with libtorch "0\.1" -> "\S+", processor "abacus" -> ".*": bits will differ/);
    const after = new RunReader(run).run.madeBy!;
    assert.deepEqual(
      after.map(({ fromStage, threads }) => [fromStage, threads]),
      [
        [0, 1],
        [4, 2],
      ],
    );
    const again = await succeeds("run", run, "--set", "stages=6");
    assert.doesNotMatch(again.stderr, /bits will differ/);
  });
});
