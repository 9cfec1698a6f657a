// `b2 runs`: what run folders say, damaged and foreign ones among them.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { presets, resolveConfig } from "../src/b2/index.js";
import type { RunComparison, RunDetails, RunSummary } from "../src/eval/run-summary.js";
import { RunWriter, type StageMetrics } from "../src/runs/index.js";
import { warmB2With, type Outcome } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";

const folder = temporaryFolder();
const esc = "\u001b[2J";
const without = { LIBTORCH: "/no/such/libtorch" };
const runs = (...args: string[]): Promise<Outcome> => warmB2With(without, "runs", ...args);

/** A run's folder after some stages, as if it had been computed. */
function made(name: string, layer: object, stages: number, processor = "a processor"): string {
  const run = join(folder, "runs", name);
  const madeBy = { fromStage: 0, at: "2026-01-01", b2: "0.3.0", libtorch: "2.0", processor, threads: 2, device: "cpu" };
  const config = resolveConfig(presets.demo, layer);
  const writer = RunWriter.create(run, { config, reward: "config", madeBy });
  for (let stage = 0; stage < stages; stage++) {
    writer.beginStage(stage);
    const cost = { queries: 144, forwardPasses: 10, backwardPasses: 5, seconds: 2, processorSeconds: 2 };
    const metrics = {
      stage,
      trainedSteps: 3,
      images: 6,
      rewardMean: 0.25 * stage,
      rewardStd: 1,
      selected: 3,
      updates: 2,
    };
    writer.finishStage(stage, { ...metrics, cost } as StageMetrics, { trajectories: 1, optimizers: 1 });
    writeFileSync(writer.stagePath(stage, "lora"), "");
  }
  writer.writeEvaluation("after", {
    rows: [
      { prompts: "training", images: 2, perPrompt: [{ prompt: "a cat", reward: 0.5, trueAlignment: 0.75 }] },
      { prompts: "held-out", images: 2, perPrompt: [{ prompt: "a dog", reward: 0.25, trueAlignment: 0.5 }] },
    ],
  });
  return run;
}

const done = made("done", { stages: 2 }, 2);
const half = made("half", { stages: 4, seed: 7 }, 1, `an ${esc} abacus`);
mkdirSync(join(folder, "runs", "no run"));
writeFileSync(join(folder, "runs", "a file.json"), "{}");
const damage = (name: string, file: string, text: string): string => {
  const run = join(folder, "runs", name);
  cpSync(done, run, { recursive: true });
  writeFileSync(join(run, file), text);
  return run;
};
damage(`name ${esc}`, "run.json", '{ "format": "\u009b2J" }');
damage("deep", "config.json", "[".repeat(50_000) + "]".repeat(50_000));
const hurt = damage("hurt", "eval/after.json", "{}");
damage("made by none", "run.json", '{ "format": "b2-run", "version": 2, "madeBy": 3 }');

describe("b2 runs list", () => {
  it("has a line for each run, and a reason for each that cannot be read, without libtorch", async () => {
    const { code, stdout, stderr } = await runs("list", join(folder, "runs"));
    assert.equal(code, 0, stderr);
    assert.equal(stderr, "");
    assert.match(stdout, /^run +stages +reward +alignment +held-out +last sign of life +made by$/m);
    const maker = "b2 0\\.3\\.0, libtorch 2\\.0, a processor, 2 threads, cpu";
    assert.match(stdout, new RegExp(`^\\S+/done +2 of 2 +0\\.25 +75\\.0% +50\\.0% +\\d+ (s|min) ago +${maker}$`, "m"));
    assert.match(stdout, /^\S+\/half +1 of 4 +0 .*an \\u001b\[2J abacus/m);
    assert.match(stdout, /^\S+no run: Expected a run folder \(with run\.json\)/m);
    assert.match(stdout, /name \\u001b\[2J: Expected format "b2-run" in .* but received "\\u009b2J"$/m);
    assert.match(stdout, /^\S+\/hurt +2 of 2 +0\.25 +- +- /m);
    assert.match(stdout, /^\S+\/hurt: Expected the results of an evaluation in \S+after\.json/m);
    assert.match(stdout, /^\S+\/deep: /m);
    assert.match(stdout, /^\S+made by none: Expected a list of what made the run/m);
    assert.doesNotMatch(stdout, /a file/);
    // eslint-disable-next-line no-control-regex
    assert.doesNotMatch(stdout, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/);
  });

  it("as JSON; of one run too", async () => {
    const { code, stdout, stderr } = await runs("list", done, "--json");
    assert.equal(code, 0, stderr);
    const [run, ...others] = JSON.parse(stdout) as RunSummary[];
    assert.deepEqual(others, []);
    assert.deepEqual(
      [run!.folder, run!.state, run!.finishedStages, run!.plannedStages, run!.reward, run!.alignment, run!.rewards],
      [done, "finished", 2, 2, 0.25, { training: 0.75, heldOut: 0.5 }, ["clip-score (models/emoji-clip)"]],
    );
    assert.ok(Date.now() - Date.parse(run!.lastSign) < 600_000);
  });

  it("tells who works on a run", async () => {
    const lock = RunWriter.lock(half);
    try {
      const { stdout } = await runs("list", half);
      assert.match(stdout, new RegExp(`running, process ${process.pid} on \\S+ +b2`));
    } finally {
      lock.release();
    }
  });

  it("is refused where there is no folder, and says so where there are no runs", async () => {
    const { code, stderr } = await runs("list", join(folder, "nowhere"));
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected a folder of runs but received \S+nowhere .*\n$/);
    mkdirSync(join(folder, "empty"));
    assert.match((await runs("list", join(folder, "empty"))).stdout, /^no runs in \S+empty$/m);
  });
});

describe("b2 runs show", () => {
  it("tells what made a run, its config beside the nearest preset, its results and files", async () => {
    const { code, stdout, stderr } = await runs("show", half);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^stages +1 of 4, unfinished$/m);
    assert.match(stdout, /^made by +b2 0\.3\.0, libtorch 2\.0, an \\u001b\[2J abacus, 2 threads, cpu$/m);
    assert.match(stdout, /^reward +clip-score \(models\/emoji-clip\)$/m);
    assert.match(stdout, /^config, beside the preset demo\n {2}seed: 42 -> 7\n {2}stages: \d+ -> 4\n\n/m);
    assert.match(stdout, /^metrics of stage 0\n {2}trainedSteps +3\n/m);
    assert.match(stdout, /^ {2}cost\.queries +144$/m);
    assert.match(stdout, /^training +true alignment +75\.0%/m);
    assert.match(stdout, /^ {2}\S+stages\/0000\/pytorch_lora_weights\.safetensors$/m);

    const json = JSON.parse((await runs("show", half, "--json")).stdout) as RunDetails;
    assert.equal(json.config!.preset, "demo");
    assert.equal(json.metrics!.images, 6);
    assert.deepEqual(Object.keys(json.evaluations), ["after"]);
  });

  it("shows what it can of a damaged run, with the reason for the rest; a folder that is none is refused", async () => {
    const { code, stdout, stderr } = await runs("show", hurt);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^metrics of stage 1$/m);
    assert.match(stdout, /^problem: Expected the results of an evaluation/m);
    const other = await runs("show", join(folder, "runs", "no run"));
    assert.equal(other.code, 2);
    assert.match(other.stderr, /^b2: Expected a run folder/);
  });
});

describe("b2 runs diff", () => {
  it("names the keys that differ, with both values, and the results", async () => {
    const { code, stdout, stderr } = await runs("diff", done, half);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^config\n {2}seed: 42 -> 7\n {2}stages: 2 -> 4\n\n/);
    assert.match(stdout, /^stages +2 of 2 +1 of 4$/m);
    assert.match(stdout, /^alignment +75\.0% +75\.0%$/m);
    assert.match(stdout, /^reward queries +144 +144$/m);
    const json = JSON.parse((await runs("diff", done, half, "--json")).stdout) as RunComparison;
    assert.deepEqual(
      json.config.map(({ key }) => key),
      ["seed", "stages"],
    );
    assert.match((await runs("diff", done, done)).stdout, /^config: the same\n/);
  });
});
