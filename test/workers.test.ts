// A run of several workers, as real processes: the samples of one process, its weights, and its folder; what becomes of the
// run when a worker dies, and that any number of workers goes on.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, before, describe, test } from "node:test";
import { layout, RunReader } from "../src/runs/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { distributedBackends, tidy } from "../src/torch/index.js";
import { b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";
import { endWorkers, freePort, startWorkers, type WorkerProcess } from "./support/workers.js";

const skip = distributedBackends().length === 0 && "the addon is built without Gloo";
const STAGES = 3;
const folder = temporaryFolder();
const config = join(folder, "config.json");
const run = (name: string): string => join(folder, name);
/** Where workers keep what the next stage reads. */
const temporary = join(folder, "tmp");
mkdirSync(temporary);
const variables = { TMPDIR: temporary };
const command = (name: string, ...more: string[]): string[] => [
  join(repository, "bin/b2.js"),
  "run",
  run(name),
  "--config",
  config,
  ...more,
];

// Five roots in batches of two images: neither two nor three workers divide them.
writeFileSync(
  config,
  JSON.stringify({
    ...tinyValues,
    stages: STAGES,
    rewards: ["brightness"],
    sample: { ...tinyValues.sample, rootsPerStage: 5, batchSize: 2, decodeBatchSize: 3 },
    interval: { mode: "measured", every: 2, roots: 2, branches: 2, splits: 2 },
    // Where a gradient is nothing but rounding, Adam would divide it by its own size; epsilon is above that, and far below others.
    train: { ...tinyValues.train, microBatch: 2, adamEpsilon: 1e-6 },
    record: { images: 5 },
    eval: { ...tinyValues.eval, enabled: true, sheet: 2, clip: "models/emoji-clip", imagesPerPrompt: 3 },
  }),
);

const samplesOf = (name: string, stage: number): string =>
  readFileSync(new RunReader(run(name)).stagePath(stage, "samples"), "utf8");

/** Which stages measured, and how many steps each one trained. */
const intervalsOf = (name: string): unknown => {
  const reader = new RunReader(run(name));
  return reader.metrics().map(({ stage, trainedSteps }) => [trainedSteps, reader.interval(stage) !== undefined]);
};

/** The largest deviation of one run's LoRA from another's. */
const deviation = (name: string, other: string): number =>
  tidy(() => {
    const [one, two] = [name, other].map((each) =>
      loadSafetensors(new RunReader(run(each)).stagePath(STAGES - 1, "lora")),
    );
    return Math.max(...[...one!].map(([key, value]) => value.sub(two!.get(key)!).abs().amax().item()));
  });

const filesOf = (name: string): string[] =>
  readdirSync(run(name), { recursive: true, encoding: "utf8" })
    .filter((file) => !file.startsWith("run.lock"))
    .sort();

afterEach(endWorkers);

describe("several workers", { skip }, () => {
  before(async () => {
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, ...command("one").slice(1));
    assert.equal(code, 0, stderr);
  });

  for (const size of [2, 3]) {
    test(`${size} workers give the samples of one process bit for bit, its weights, and its folder`, async () => {
      const name = `of-${size}`;
      const workers = await startWorkers(size, command(name), variables);
      const codes = await Promise.all(workers.map(({ ended }) => ended));
      assert.deepEqual(codes, Array<number>(size).fill(0), workers.map(({ lines }) => lines.join("\n")).join("\n\n"));
      assert.equal(samplesOf(name, 0), samplesOf("one", 0));
      assert.deepEqual(intervalsOf(name), intervalsOf("one"));
      const far = deviation(name, "one");
      assert.ok(far < 1e-5, `${far}`);
      assert.deepEqual(filesOf(name), filesOf("one"));
      const image = new RunReader(run("one")).samples(0).findLast((line) => line.image !== undefined)!.image!;
      const picture = (of: string): Buffer => readFileSync(join(run(of), "stages/0000", image));
      assert.deepEqual(picture(name), picture("one"));
      for (const file of ["eval/before.json", "before.png"]) {
        assert.deepEqual(readFileSync(join(run(name), file)), readFileSync(join(run("one"), file)), file);
      }
    });
  }

  test("two workers evaluate earlier stages as one process does, byte for byte", async () => {
    for (const copy of ["by-one", "by-two"]) cpSync(run("one"), run(copy), { recursive: true });
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, ...command("by-one", "--set=eval.every=1").slice(1));
    assert.equal(code, 0, stderr);
    const workers = await startWorkers(2, command("by-two", "--set=eval.every=1"));
    assert.deepEqual(await Promise.all(workers.map(({ ended }) => ended)), [0, 0], workers[1]!.lines.join("\n"));
    for (const name of ["stage-0001", "stage-0002"]) {
      const [one, two] = ["by-one", "by-two"].map((of) => readFileSync(layout.evaluation(run(of), name)));
      assert.deepEqual(two, one, name);
    }
  });

  test("b2 launch starts them, and passes on what they print", async () => {
    const { code, stdout, stderr } = await b2With(
      { B2_THREADS: "1" },
      ...["launch", "--processes", "2", "--", ...command("launched").slice(1)],
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, /launched\n/);
    assert.equal(samplesOf("launched", 0), samplesOf("one", 0));
    const bad = await b2With({ B2_THREADS: "1" }, "launch", "--processes", "2", "--", "run", "--preset", "nonsense");
    assert.equal(bad.code, 2, bad.stderr);
    assert.match(bad.stderr, /rank [01] \(process \d+\) has ended with exit code 2/);
  });

  test("2 workers train all weights with 8-bit moments, the same on both", async () => {
    const full = ["train.parameters=full", "train.use8bitAdam=true", "train.epochs=1", "stages=1"];
    const workers = await startWorkers(2, command("full", ...full.flatMap((value) => ["--set", value])));
    const codes = await Promise.all(workers.map(({ ended }) => ended));
    assert.deepEqual(codes, [0, 0], workers.map(({ lines }) => lines.join("\n")).join("\n\n"));
    const state = tidy(() =>
      [...loadSafetensors(new RunReader(run("full")).stagePath(0, "optimizer"))].map(([key, { dtype }]) => [
        key,
        dtype,
      ]),
    );
    assert.ok(state.some(([key, dtype]) => key!.endsWith(".exp_avg_sq") && dtype === "uint8"));
  });

  for (const [signal, rank] of [
    ["SIGKILL", 1],
    ["SIGSTOP", 2],
    ["SIGKILL", 0],
  ] as const) {
    test(`a worker that ends or hangs stops the run, and other numbers of workers go on: ${signal} of rank ${rank}`, async () => {
      const name = `${signal}-${rank}`;
      const workers = await startWorkers(3, command(name, "--worker-timeout=4"), variables);
      await workers[0]!.saidLike(/^stage 1\b/);
      workers[rank]!.child.kill(signal);
      for (const [other, { ended, lines }] of workers.entries()) {
        if (other === rank) continue;
        assert.equal(await ended, 2, lines.join("\n"));
        assert.match(lines.join("\n"), new RegExp(`^b2: Expected .*rank ${rank} on `, "m"));
      }
      endWorkers();
      await workers[rank]!.ended;
      const finished = new RunReader(run(name)).finishedStages();
      assert.ok(finished.length >= 1 && finished.length < STAGES, finished.join(" "));
      assert.equal(readdirSync(temporary).length, rank === 0 ? 0 : 1, "a worker that is killed cannot clean up");
      // One that was killed as it deleted its folder, and one that has not locked its own yet.
      for (const [folder, hours] of Object.entries({ "b2-rank-1-old": 2, "b2-rank-1-new": 0 })) {
        mkdirSync(join(temporary, folder));
        const made = new Date(Date.now() - hours * 3_600_000);
        utimesSync(join(temporary, folder), made, made);
      }
      const others = await startWorkers(2, command(name), variables);
      assert.deepEqual(await Promise.all(others.map(({ ended }) => ended)), [0, 0]);
      assert.deepEqual(readdirSync(temporary), ["b2-rank-1-new"], "the next one does");
      rmdirSync(join(temporary, "b2-rank-1-new"));
      const far = deviation(name, "one");
      assert.ok(far < 1e-5, `${far}`);
      assert.deepEqual(filesOf(name), filesOf("one"));
    });
  }

  test("what rank 0 finds wrong is told to all at once, before they have met and after", async () => {
    const noFile = join(folder, "nowhere.txt");
    const faults: Readonly<Record<string, RegExp>> = {
      "sample.steps=-1": /sample\.steps/,
      [`prompts.train=${noFile}`]: /nowhere\.txt/,
      [`model.path=${folder}`]: /model_index\.json|Expected .*model/,
    };
    const fail = async ([fault, said]: [string, RegExp]): Promise<void> => {
      const isEarly = fault.startsWith("sample");
      const port = await freePort();
      const start = (...ranks: number[]): Promise<WorkerProcess[]> =>
        startWorkers(isEarly ? 3 : 2, command("bad", `--set=${fault}`), {}, { ranks, port });
      const [first, second] = await start(0, 1);
      const workers = [first!, second!];
      if (isEarly) {
        // Nobody waits for the last one, which is told as well when it comes.
        await second!.ended;
        workers.push(...(await start(2)));
      }
      for (const [rank, { ended, lines }] of workers.entries()) {
        assert.equal(await ended, 2, lines.join("\n"));
        assert.match(lines.join("\n"), said);
        if (rank > 0) assert.match(lines.join("\n"), /^b2: Expected rank 0 to go on but it has stopped: /m);
      }
    };
    const begun = performance.now();
    await Promise.all(Object.entries(faults).map(fail));
    // They would wait five minutes.
    assert.ok(performance.now() - begun < 120_000);
  });
});
