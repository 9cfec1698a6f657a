// Workers that only score, as real processes: the samples, evaluations and weights of one process; what becomes of a reward
// that fails there, of a reward rank that dies, and of questions to people.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, before, describe, test } from "node:test";
import { Annotations } from "../src/annotate/index.js";
import { layout, RunReader } from "../src/runs/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { distributedBackends, tidy } from "../src/torch/index.js";
import { b2, b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";
import { endWorkers, startWorkers, type WorkerProcess } from "./support/workers.js";

const skip = distributedBackends().length === 0 && "the addon is built without Gloo";
const STAGES = 2;
const folder = temporaryFolder();
const run = (name: string): string => join(folder, name);
const [fault, opened] = [join(folder, "fault"), join(folder, "opened")];

// Says which processes open it. It throws in stage 1 while there is a file for that.
writeFileSync(
  join(folder, "mine.mjs"),
  `import { appendFileSync, existsSync } from "node:fs";
  import { setTimeout as sleep } from "node:timers/promises";
  export const open = ({ concurrent = false }) => {
    appendFileSync(${JSON.stringify(opened)}, (process.env.RANK ?? "alone") + "\\n");
    return {
      concurrent,
      score: async (images, prompts, { keys }) => {
        if (existsSync(${JSON.stringify(fault)}) && keys[0].group.startsWith("stage-0001")) throw new Error("no more");
        const red = images.select(1, 0).mean({ dim: [1, 2] }).toArray();
        // The first answers come last.
        if (concurrent) await sleep(Math.max(0, 60 - 30 * keys[0].index));
        return red.map((value, i) => value + prompts[i].length / 100);
      },
    };
  };`,
);

/** Writes a config. Five roots in batches of two images: no number of workers divides them. */
function configOf(name: string, options: object, values: object = {}): string {
  const file = join(folder, `${name}.json`);
  const reward = { name: "module", path: join(folder, "mine.mjs"), label: "mine", options };
  const config = {
    ...tinyValues,
    stages: STAGES,
    rewards: [reward],
    sample: { ...tinyValues.sample, rootsPerStage: 5, batchSize: 2, decodeBatchSize: 3 },
    train: { ...tinyValues.train, microBatch: 2 },
    record: { images: 5 },
    eval: { ...tinyValues.eval, enabled: true, sheet: 1, clip: "models/emoji-clip", imagesPerPrompt: 3 },
    ...values,
  };
  writeFileSync(file, JSON.stringify(config));
  return file;
}

const config = configOf("config", {});
const command = (name: string, ...more: string[]): string[] => ["run", run(name), "--config", config, ...more];
const start = (size: number, args: readonly string[]): Promise<WorkerProcess[]> =>
  startWorkers(size, [join(repository, "bin/b2.js"), ...args]);
const said = (workers: readonly WorkerProcess[]): string => workers.map(({ lines }) => lines.join("\n")).join("\n\n");
const codesOf = (workers: readonly WorkerProcess[]): Promise<(number | null)[]> =>
  Promise.all(workers.map(({ ended }) => ended));

const read = (name: string, file: string): string => readFileSync(join(run(name), file), "utf8");
const samplesOf = (name: string, stage: number): string =>
  readFileSync(new RunReader(run(name)).stagePath(stage, "samples"), "utf8");
const filesOf = (name: string): string[] =>
  readdirSync(run(name), { recursive: true, encoding: "utf8" })
    .filter((file) => !file.startsWith("run.lock"))
    .sort();

/** Expects the run of one process: bit by bit from the same weights, and its weights but for rounding. */
function expectRunOfOne(name: string): void {
  assert.equal(samplesOf(name, 0), samplesOf("one", 0));
  assert.equal(read(name, "eval/before.json"), read("one", "eval/before.json"));
  assert.deepEqual(filesOf(name), filesOf("one"));
  const far = tidy(() => {
    const [one, two] = [name, "one"].map((each) =>
      loadSafetensors(new RunReader(run(each)).stagePath(STAGES - 1, "lora")),
    );
    return Math.max(...[...one!].map(([key, value]) => value.sub(two!.get(key)!).abs().amax().item()));
  });
  assert.ok(far < 1e-5, `${far}`);
}

afterEach(endWorkers);

describe("reward ranks", { skip }, () => {
  before(async () => {
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, ...command("one"));
    assert.equal(code, 0, stderr);
  });

  test("two workers that train and one that scores give the run of one process; it alone opens rewards", async () => {
    rmSync(opened);
    const workers = await start(3, command("two-and-one", "--reward-ranks=1"));
    assert.deepEqual(await codesOf(workers), [0, 0, 0], said(workers));
    expectRunOfOne("two-and-one");
    assert.equal(readFileSync(opened, "utf8"), "2\n");
  });

  test("b2 launch passes the option on: one that trains, and two that score several batches at a time", async () => {
    rmSync(opened);
    const concurrent = configOf("concurrent", { concurrent: true });
    const args = ["run", run("one-and-two"), "--config", concurrent, "--reward-ranks", "2"];
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, "launch", "--processes", "3", "--", ...args);
    assert.equal(code, 0, stderr);
    expectRunOfOne("one-and-two");
    assert.deepEqual(readFileSync(opened, "utf8").split("\n").sort(), ["", "1", "2"]);
  });

  test("a reward that throws stops all with its sentence, and what was sampled is kept", async () => {
    writeFileSync(fault, "");
    const failing = await start(3, command("throws", "--reward-ranks=1"));
    assert.deepEqual(await codesOf(failing), [2, 2, 2], said(failing));
    rmSync(fault);
    const sentence =
      /the reward mine .*stage-0001\/root-\d+, image \d\).* it threw Error: no more \(--debug says where\)/;
    for (const { lines } of failing) assert.match(lines.join("\n"), sentence);
    assert.match(failing[0]!.lines.join("\n"), /^What was sampled for stage 1 is kept: the same command goes on/m);
    const again = await start(3, command("throws", "--reward-ranks=1"));
    assert.deepEqual(await codesOf(again), [0, 0, 0], said(again));
    assert.match(again[0]!.lines.join("\n"), /stage 1: going on with 10 samples of an earlier attempt/);
    expectRunOfOne("throws");
  });

  test("a reward rank that is killed is named by the others, which stop; without one the run goes on", async () => {
    const workers = await start(3, command("killed", "--reward-ranks=1", "--worker-timeout=4"));
    await workers[0]!.saidLike(/^stage 0\b/);
    workers[2]!.child.kill("SIGKILL");
    for (const { ended, lines } of workers.slice(0, 2)) {
      assert.equal(await ended, 2, lines.join("\n"));
      assert.match(lines.join("\n"), /^b2: Expected rank 2 on \S+ to go on but it has given no sign of life/m);
    }
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, ...command("killed"));
    assert.equal(code, 0, stderr);
    expectRunOfOne("killed");
  });

  test("people are asked once, in the run folder, by one reward rank; workers with rewards of their own are refused", async () => {
    const asking = configOf("people", {}, { rewards: ["people"], eval: { ...tinyValues.eval, enabled: false } });
    const args = ["run", run("people"), "--config", asking];
    const each = await start(2, args);
    assert.deepEqual(await codesOf(each), [2, 2], said(each));
    assert.match(said(each), /^b2: Expected one worker, or --reward-ranks 1, for a reward that has to see all images/m);
    const workers = await start(3, [...args, "--reward-ranks=1"]);
    assert.deepEqual(await codesOf(workers), [2, 2, 2], said(workers));
    for (const { lines } of workers) {
      assert.match(lines.join("\n"), /Expected judgements of 10 images in 5 groups for the reward people/);
    }
    const queue = new Annotations(layout.annotations(run("people"))).groups();
    assert.deepEqual(
      [...queue.values()].map(({ images }) => images.length),
      [2, 2, 2, 2, 2],
    );
    assert.ok(existsSync(new RunReader(run("people")).stagePath(0, "sampled")));
  });

  test("a number of reward ranks that leaves none to train is refused, and so is one process alone", async () => {
    const workers = await start(2, command("none", "--reward-ranks=2"));
    assert.deepEqual(await codesOf(workers), [2, 2], said(workers));
    assert.match(said(workers), /^b2: Expected fewer reward ranks than workers, of which there are 2, but received/m);
    const { code, stderr } = await b2(...command("none", "--reward-ranks=1"));
    assert.equal(code, 2);
    assert.match(stderr, /Expected several workers for --reward-ranks but this process is alone/);
    assert.ok(!existsSync(run("none")));
  });
});
