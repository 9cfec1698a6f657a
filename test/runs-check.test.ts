// `b2 runs check`: what it says of folders that are really damaged, and what `--repair` does about it.
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { Experiment } from "../src/eval/experiment.js";
import { checkRun, type Finding, type RunCheck } from "../src/eval/run-check.js";
import { repairRun, type RunRepair } from "../src/eval/run-repair.js";
import { RunReader, RunWriter } from "../src/runs/index.js";
import { warmB2With, type Outcome } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { runContents } from "./support/run-contents.js";
import { tinyConfig } from "./support/tiny.js";

const folder = temporaryFolder();
const config = tinyConfig({
  model: { threads: 1 },
  rewards: ["brightness"],
  eval: { enabled: true, every: 1, imagesPerPrompt: 1 },
});
const whole = join(folder, "whole");
const check = (...args: string[]): Promise<Outcome> =>
  warmB2With({ LIBTORCH: "/no/such/libtorch" }, "runs", "check", ...args);

async function run(at: string): Promise<void> {
  const experiment = await Experiment.open(at, config);
  try {
    await experiment.run();
  } finally {
    experiment.dispose();
  }
}

let copies = 0;
function copy(): string {
  const at = join(folder, `copy-${copies++}`);
  cpSync(whole, at, { recursive: true });
  return at;
}

/** A copy whose stage 1 is not finished, but sampled and scored. */
function unfinished(): string {
  const at = copy();
  const stage = join(at, "stages/0001");
  for (const file of ["stage.json", "selected.safetensors", "samples.jsonl"]) rmSync(join(stage, file));
  for (const name of ["after", "stage-0001"]) rmSync(join(at, "eval", `${name}.json`));
  writeFileSync(join(stage, "sampled.json"), "{}");
  cpSync(join(stage, "optimizer.safetensors"), join(stage, "sampled.safetensors"));
  writeFileSync(join(stage, "scores.json"), JSON.stringify({ parts: { brightness: [0.5] }, rewardSeconds: {} }));
  writeFileSync(join(at, "metrics.jsonl"), readFileSync(join(whole, "metrics.jsonl"), "utf8").split("\n")[0]! + "\n");
  return at;
}

const said = ({ findings }: { findings: readonly Finding[] }): string[] =>
  findings.map(({ kind, path }) => `${kind}: ${path}`);

/** Puts a NaN into the last number of a safetensors file of float32. */
function addNaN(file: string): void {
  const bytes = readFileSync(file);
  bytes.writeFloatLE(NaN, bytes.length - 4);
  writeFileSync(file, bytes);
}

before(() => run(whole));

describe("b2 runs check", () => {
  it("finds nothing in a run that is sound, finished or not", async () => {
    assert.deepEqual(said(checkRun(whole)), []);
    assert.deepEqual(said(checkRun(unfinished())), ["missing: eval/stage-0001.json"]);
    const { code, stdout, stderr } = await check(whole);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^\S+whole: \d+ files of 2 finished stages, sound\n$/);
    // It has read them all, the locks and what is only listed aside.
    const { files } = checkRun(whole);
    const there = readdirSync(whole, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    assert.ok(files >= there.length - 1, `${files} of ${there.length}`);
  });

  const cut = (file: string) => (at: string) =>
    truncateSync(join(at, file), Math.floor(statSync(join(at, file)).size / 2));
  const remove = (file: string) => (at: string) => rmSync(join(at, file), { recursive: true });
  const write = (file: string, text: string) => (at: string) => writeFileSync(join(at, file), text);
  const stage1 = "stages/0001";
  const lora = `${stage1}/pytorch_lora_weights.safetensors`;
  /** What is done to a folder, what is said of it, and whether `--repair` and `b2 run` make it whole. */
  const cases: readonly (readonly [damage: (at: string) => void, said: string[], fate: "mended" | "left"])[] = [
    [cut(lora), [`damaged: ${lora}`], "left"],
    [(at) => addNaN(join(at, lora)), [`damaged: ${lora}`], "left"],
    [remove(lora), [`missing: ${lora}`], "left"],
    [cut(`${stage1}/optimizer.safetensors`), [`damaged: ${stage1}/optimizer.safetensors`], "left"],
    [remove(`${stage1}/optimizer.safetensors`), [`missing: ${stage1}/optimizer.safetensors`], "left"],
    [write(`${stage1}/samples.jsonl`, "{\n"), [`damaged: ${stage1}/samples.jsonl`], "left"],
    [
      (at) => {
        const file = join(at, stage1, "samples.jsonl");
        writeFileSync(file, readFileSync(file, "utf8").replace(/^.*\n/, ""));
      },
      [`inconsistent: ${stage1}/samples.jsonl`, `inconsistent: ${stage1}/samples.jsonl`],
      "left",
    ],
    [remove(`${stage1}/samples.jsonl`), [`missing: ${stage1}/samples.jsonl`], "left"],
    [remove(`${stage1}/images/0001-0.png`), [`missing: ${stage1}/images/0001-0.png`], "left"],
    [cut(`${stage1}/images/0001-0.png`), [`damaged: ${stage1}/images/0001-0.png`], "left"],
    [write(`${stage1}/updates.jsonl`, ""), [`inconsistent: ${stage1}/updates.jsonl`], "left"],
    [write(`${stage1}/stage.json`, "{"), [`damaged: ${stage1}/stage.json`], "left"],
    [write("config.json", '{ "stages": -1 }'), ["damaged: config.json"], "left"],
    [remove("config.json"), ["missing: config.json"], "left"],
    [write("run.json", "["), ["damaged: run.json"], "left"],
    [remove("run.json"), ["missing: run.json"], "left"],
    [write("run.json", '{ "format": "b2-run", "version": 99 }'), ["newer: run.json"], "left"],
    [
      (at) => {
        remove("stages/0000/stage.json")(at);
        writeFileSync(
          join(at, "metrics.jsonl"),
          readFileSync(join(at, "metrics.jsonl"), "utf8").split("\n")[1]! + "\n",
        );
      },
      ["missing: stages/0000"],
      "left",
    ],
    [remove("metrics.jsonl"), ["missing: metrics.jsonl"], "mended"],
    [cut("metrics.jsonl"), ["inconsistent: metrics.jsonl"], "mended"],
    [
      (at) => {
        rmSync(join(at, "metrics.jsonl"));
        mkdirSync(join(at, "metrics.jsonl"));
      },
      ["inconsistent: metrics.jsonl"],
      "mended",
    ],
    [write("eval/after.json", "{}"), ["damaged: eval/after.json"], "mended"],
    [cut("reward.png"), ["damaged: reward.png"], "mended"],
    [write("config.json.12.tmp", "half"), ["left over: config.json.12.tmp"], "mended"],
    [(at) => mkdirSync(join(at, ".model.12.tmp")), ["left over: .model.12.tmp"], "mended"],
    [write(`${stage1}/scores.json`, "{}"), [`left over: ${stage1}/scores.json`], "mended"],
    [(at) => mkdirSync(join(at, "stages/0007")), ["left over: stages/0007"], "mended"],
  ];
  for (const [number, [damage, expected, fate]] of cases.entries()) {
    it(`${number}: ${expected[0]}, ${fate}`, async () => {
      const at = copy();
      damage(at);
      const found = checkRun(at);
      assert.deepEqual(said(found), expected);
      for (const { problem, cost, advice } of found.findings) {
        assert.ok(problem !== "" && cost !== "" && advice !== "");
        assert.doesNotMatch(problem, new RegExp(folder));
      }
      const sizes = (): number => readdirSync(at, { recursive: true }).length;
      const before = sizes();
      assert.deepEqual(checkRun(at), found, "a check changes nothing");
      assert.equal(sizes(), before);
      const repaired = repairRun(at);
      if (fate === "left") {
        assert.deepEqual(said(repaired), expected);
        assert.deepEqual(repaired.repaired, []);
        return;
      }
      assert.deepEqual(
        said(repaired).filter((finding) => !finding.startsWith("missing: eval")),
        [],
      );
      assert.equal(repaired.repaired.length, expected.length);
      await run(at);
      rmSync(join(at, "set-aside"), { recursive: true, force: true });
      assert.deepEqual(runContents(at), runContents(whole));
    });
  }

  it("sets aside what an unfinished stage has left, if it is damaged, and the stage is made again", async () => {
    const at = unfinished();
    writeFileSync(join(at, "stages/0001/scores.json"), '{ "parts": { "brightness": ["high"] } }');
    addNaN(join(at, "stages/0001/sampled.safetensors"));
    assert.deepEqual(said(checkRun(at)).slice(0, 2), [
      "damaged: stages/0001/scores.json",
      "damaged: stages/0001/sampled.safetensors",
    ]);
    const { code, stdout } = await check(at, "--repair");
    assert.match(stdout, /^set aside: stages\/0001\/scores\.json: Expected the scores/m);
    assert.equal(code, 2, "the evaluation is still to be made up");
    assert.match(stdout, /^missing: eval\/stage-0001\.json: .*\n {2}costs: .*\n {2}to do: run b2 run on it$/m);
    assert.deepEqual(readdirSync(join(at, "set-aside/stages/0001")).sort(), ["sampled.safetensors", "scores.json"]);
    await run(at);
    assert.deepEqual(said(checkRun(at)), []);
  });

  it("removes the lock of a dead process, and touches nothing while a living one works", async () => {
    const dead = copy();
    const lock = RunWriter.lock(dead);
    const text = readFileSync(join(dead, "run.lock"), "utf8");
    lock.release();
    // This process's parent, said to have started at another time.
    writeFileSync(join(dead, "run.lock"), text.replace(/^\d+/, String(process.ppid)));
    assert.deepEqual(said(checkRun(dead)), ["left over: run.lock"]);
    assert.deepEqual(said(repairRun(dead)), []);
    assert.ok(!existsSync(join(dead, "run.lock")));

    const used = copy();
    rmSync(join(used, "metrics.jsonl"));
    writeFileSync(join(used, "config.json.12.tmp"), "being written");
    const held = RunWriter.lock(used);
    try {
      assert.deepEqual(said(checkRun(used)), ["in use: run.lock"]);
      const { code, stdout } = await check(used, "--repair");
      assert.equal(code, 2);
      assert.match(stdout, new RegExp(`^in use: run\\.lock: process ${process.pid} of the host \\S+ works on the run`));
      assert.ok(existsSync(join(used, "config.json.12.tmp")));
    } finally {
      held.release();
    }
  });

  it("prints JSON, and escapes what files say", async () => {
    const at = copy();
    writeFileSync(join(at, "config.json"), '{ "\\u001b[2J": 1 }');
    const { code, stdout } = await check(at, "--json");
    assert.equal(code, 2);
    const json = JSON.parse(stdout) as RunCheck | RunRepair;
    assert.deepEqual([json.folder, json.finishedStages, said(json)], [at, 2, ["damaged: config.json"]]);
    const plain = await check(at);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(plain.stdout, /\u001b/);
  });

  it("refuses a folder that is no run", async () => {
    const { code, stderr } = await check(folder);
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected a run folder \(with run\.json\) but received \S+\n$/);
    assert.equal(new RunReader(whole).nextStage(), 2);
  });
});
