// A comparison from the command line, as real processes: two settings, two seeds, two stages.
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, test } from "node:test";
import { changeGrid, writeGrid } from "../src/compare/grid.js";
import { runFolder } from "../src/compare/plan.js";
import type { Report } from "../src/compare/report.js";
import { RunReader, RunWriter, type StageMetrics } from "../src/runs/index.js";
import { b2, startB2, warmB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { shallowModel, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const tiny = join(folder, "tiny.json");
writeFileSync(
  tiny,
  JSON.stringify({
    ...tinyValues,
    model: { ...tinyValues.model, path: shallowModel() },
    rewards: ["brightness"],
    sample: { steps: 3, guidanceScale: 1, rootsPerStage: 2, batchSize: 8 },
    train: { ...tinyValues.train, epochs: 1, microBatch: 12 },
    eval: { ...tinyValues.eval, enabled: true },
  }),
);
const whole = "select.mode=all interval.first=null interval.last=null";
const settings = [`b2=${tiny}`, `whole=${tiny} ${whole}`];

const json = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(...path), "utf8")) as Record<string, unknown>;

describe("a comparison of two settings", () => {
  const at = join(folder, "two");
  const run = (setting: string, seed: number): RunReader => new RunReader(join(at, "runs", setting, `seed-${seed}`));

  it("runs every setting with every seed; a base model is evaluated once a seed", async () => {
    const options = [
      "--seeds",
      "1,2",
      "--queries",
      "9",
      "--jobs",
      "2",
      "--evaluations",
      "2",
      "--set",
      "record.optimizers=2",
    ];
    const { code, stdout, stderr } = await b2("compare", at, ...settings, ...options);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /4 of 4 runs finished/);
    assert.match(stdout, /^b2 +2 of 2 +2 +8 /m);
    for (const file of ["report.html", "report.md", "report.json", "training-reward.png"]) {
      assert.ok(existsSync(join(at, file)), file);
    }
    for (const setting of ["b2", "whole"]) {
      for (const seed of [1, 2]) {
        const reader = run(setting, seed);
        // 4 queries a stage: 9 pay for two.
        assert.deepEqual(reader.finishedStages(), [0, 1]);
        assert.equal(reader.config()["seed"], seed);
        for (const name of ["before", "stage-0001", "after"]) assert.ok(reader.evaluation(name), name);
      }
    }
    assert.deepEqual(run("whole", 2).evaluation("before"), run("b2", 2).evaluation("before"));
    assert.notDeepEqual(run("b2", 1).evaluation("before"), run("b2", 2).evaluation("before"));
    assert.equal(run("whole", 1).metrics()[1]!.trainedSteps, 3);
  });

  it("does nothing again, resumes what is unfinished, and takes another seed", async () => {
    const stages = (setting: string, seed: number): string => join(run(setting, seed).folder, "stages");
    const before = readFileSync(join(stages("b2", 2), "0001/pytorch_lora_weights.safetensors"));
    rmSync(join(stages("b2", 2), "0001"), { recursive: true });
    rmSync(join(run("b2", 2).folder, "eval/after.json"));
    const { code, stderr } = await b2("compare", at, "--seeds", "1,2,3", "--jobs", "2");
    assert.equal(code, 0, stderr);
    const worked = [...stderr.matchAll(/^(\S+ seed \d): running$/gm)].map(([, name]) => name);
    assert.deepEqual(worked.sort(), ["b2 seed 2", "b2 seed 3", "whole seed 3"]);
    assert.ok(readFileSync(join(stages("b2", 2), "0001/pytorch_lora_weights.safetensors")).equals(before));
    assert.deepEqual(json(at, "compare.json")["seeds"], [1, 2, 3]);
  });

  it("refuses other values for a setting that has begun, and runs nothing then", async () => {
    const { code, stderr } = await warmB2("compare", at, `b2=${tiny} train.learningRate=0.5`, "--seeds", "1,9");
    assert.equal(code, 2);
    assert.match(stderr, /run of b2 with seed 1 .*\n {2}train\.learningRate: 0\.001 -> 0\.5/);
    assert.ok(!existsSync(join(at, "runs/b2/seed-9")));
    assert.deepEqual(json(at, "compare.json")["seeds"], [1, 2, 3]);
  });
});

test("a report on runs whose evaluation is damaged names the file", async () => {
  const at = join(folder, "damaged");
  cpSync(join(folder, "two"), at, { recursive: true });
  const file = join(at, "runs/b2/seed-1/eval/after.json");
  for (const damaged of ['{"rows":5}', '{"rows":[5]}', '{"rows":[{"prompts":["training"]}]}', "{}"]) {
    writeFileSync(file, damaged);
    const { code, stderr } = await warmB2("compare", "report", at);
    assert.equal(code, 2, stderr);
    assert.ok(stderr.includes(`Expected the results of an evaluation in ${file}`), stderr);
  }
});

test("Ctrl-C stops all runs after their step; the same command goes on with them", async () => {
  const at = join(folder, "interrupted");
  const begin = [
    "compare",
    at,
    ...settings,
    "--seeds",
    "1",
    "--stages",
    "30",
    "--jobs",
    "2",
    "--set",
    "eval.enabled=false",
  ];
  const { child, outcome } = startB2(...begin);
  const stagesOf = (setting: string): number => {
    const run = join(at, "runs", setting, "seed-1");
    return RunReader.exists(run) ? new RunReader(run).finishedStages().length : 0;
  };
  while (stagesOf("b2") === 0 || stagesOf("whole") === 0) await new Promise((wait) => setTimeout(wait, 50));
  child.kill("SIGINT");
  const { code, stderr } = await outcome;
  assert.equal(code, 130, stderr);
  const left = ["b2", "whole"].map(stagesOf);
  assert.ok(
    left.every((stages) => stages >= 1 && stages < 30),
    left.join(),
  );
  const files = readdirSync(at, { recursive: true, encoding: "utf8" });
  assert.ok(!files.some((file) => file.endsWith(".tmp")));
  // The same number of stages, so that nothing is left but to notice what is there.
  const dry = await warmB2("compare", at, "--dry-run");
  assert.match(dry.stdout, /^whole +30 +120 /m, dry.stderr);
  const again = startB2("compare", at);
  while (stagesOf("b2") === left[0]) await new Promise((wait) => setTimeout(wait, 50));
  again.child.kill("SIGHUP");
  assert.equal((await again.outcome).code, 130);
});

test("a run that fails is named with the end of its log, and the others finish", async () => {
  const at = join(folder, "failing");
  const reward = join(folder, "nan.mjs");
  writeFileSync(reward, "export default (_, prompts) => prompts.map(() => NaN);\n");
  const broken = `broken=${tiny} rewards=["${reward}"]`;
  const { code, stderr } = await b2(
    "compare",
    at,
    broken,
    settings[0]!,
    "--seeds",
    "1",
    "--jobs",
    "1",
    "--stages",
    "1",
  );
  assert.equal(code, 2);
  assert.match(stderr, /1 failed\nbroken seed 1 \(.*broken\/seed-1\.log\):\n.*Expected a finite number/s);
  assert.deepEqual(new RunReader(join(at, "runs/b2/seed-1")).finishedStages(), [0]);
});

test("the report of hand-made runs has their means, differences and costs; measures appear by themselves", async () => {
  const at = join(folder, "hand-made");
  const fast = { settings: { slow: ["demo"], fast: ["demo"], "not-begun": ["demo"] }, seeds: [1, 2, 3] };
  writeGrid(at, changeGrid(undefined, { ...fast, baseline: "slow" }));
  for (const seed of [1, 2]) {
    handMadeRun(at, "slow", seed, [0.4 + seed / 100, 0.5, 0.6]);
    handMadeRun(at, "fast", seed, [0.4 + seed / 100, 0.6, 0.8]);
  }
  handMadeRun(at, "fast", 3, [0.9], { planned: 2 });
  const { code, stdout, stderr } = await warmB2("compare", "report", at);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^slow +2 of 2 +2 +20 +140 +4 +6$/m);
  assert.match(stdout, /^fast +2 of 3 +2 +20 +140 /m);
  assert.match(stdout, /Cost until true alignment on training prompts is 60\.0%\n.*\n.*\nslow +20 \[20, 20\] +- /);
  assert.match(stdout, /\nfast +10 \[10, 10\] +0\.50 \[0\.50, 0\.50\] +70 /);
  assert.ok(readFileSync(join(at, "training-trueAlignment.png")).subarray(1, 4).equals(Buffer.from("PNG")));
  assert.ok(existsSync(join(at, "held-out-diversity-against-alignment.png")));

  const markdown = readFileSync(join(at, "report.md"), "utf8");
  assert.match(markdown, /1 unfinished run is left out/);
  assert.match(
    markdown,
    /## At equal reward queries, training prompts[^]*?\| fast \| 20 \| \*\*\+20\.0 \[\+20\.0, \+20\.0\]\*\*/,
  );
  assert.match(markdown, /\| sharpness \|/);
  const page = readFileSync(join(at, "report.html"), "utf8");
  assert.doesNotMatch(page, /(src|href)=|url\(|@import/, "nothing from outside");
  assert.match(page, /slow \(baseline\)/);
  const report = json(at, "report.json") as unknown as Report;
  assert.deepEqual(report.settings, ["slow", "fast"]);
  const alignment = report.measures.find(({ key }) => key === "held-out/trueAlignment")!;
  assert.equal(alignment.equalCost.passes!["fast"]!.at, 140);
  assert.deepEqual(
    alignment.evaluations["slow"]!.map(({ stage }) => stage),
    [0, 1, 2],
  );
  assert.ok(Math.abs(alignment.evaluations["slow"]![0]!.value.mean - 0.415) < 1e-12);

  const aimed = await warmB2("compare", "report", at, "--target", "0.95");
  assert.match(aimed.stdout, /is 95\.0%\n.*\n.*\nslow +never/);
  const none = await warmB2("compare", "report", join(folder, "nowhere"));
  assert.equal(none.code, 2);
  assert.match(none.stderr, /nowhere\/compare\.json: Expected a readable text file/);
});

/** A run folder of one evaluation before training and one after each stage; a stage costs 10 queries and 70 passes. */
function handMadeRun(at: string, setting: string, seed: number, values: readonly number[], { planned = 2 } = {}): void {
  const run = RunWriter.create(runFolder(at, setting, seed), { config: { stages: planned }, reward: "config" });
  values.forEach((value, stage) => {
    const row = (prompts: string): object => ({
      prompts,
      trueAlignment: { mean: value },
      diversity: { mean: 1 - value },
      sharpness: { mean: seed },
      perPrompt: [],
    });
    const name = stage === 0 ? "before" : stage === planned ? "after" : `stage-000${stage}`;
    const evaluated = (): void => run.writeEvaluation(name, { rows: [row("training"), row("held-out")] });
    if (stage === 0) return evaluated();
    run.beginStage(stage - 1);
    const cost = { queries: 10 * stage, forwardPasses: 30 * stage, backwardPasses: 20 * stage, seconds: 3 * stage };
    const metrics = { stage: stage - 1, rewardMean: value, cost: { ...cost, processorSeconds: 2 * stage } };
    run.finishStage(stage - 1, metrics as unknown as StageMetrics, { trajectories: 0, optimizers: 1 });
    evaluated();
  });
}

test("bad grids are refused in one sentence before anything is written", async () => {
  const at = join(folder, "refused");
  const grid = join(folder, "grid.json");
  writeFileSync(grid, JSON.stringify({ settings: { a: "demo" }, seeds: [1, -1], colour: 1 }));
  const cases: [string[], RegExp][] = [
    [[], /Expected settings to compare, such as demo demo\+ddpo/],
    [["dmeo"], /Expected a preset \(.*demo.*\) or a config file but received "dmeo"/],
    [["demo branch.count=3"], /Expected a setting such as demo\+ddpo, or name=/],
    [["demo", "demo"], /Expected settings of different names but received demo twice/],
    [["a=demo branch.cuont=3"], /setting a: .*branch\.cuont/],
    [["demo", "--seeds", "1,1"], /Expected different seeds .* but received 1, 1/],
    [["demo", "--seeds", "one"], /Expected whole numbers such as 1,2,3 but received one/],
    [["demo", "--baseline", "ddpo"], /Expected one of demo for the baseline of the comparison but received "ddpo"/],
    [["demo", "--queries", "10"], /Expected a budget of at least 144 queries, one stage of the setting demo/],
    [["demo", "--queries", "10", "--stages", "2"], /Expected one of --stages, --queries and --passes/],
    [["--grid", grid], /grid\.json: .*colour[^]*seeds\[1\]/],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await warmB2("compare", at, ...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /\n +at /);
    assert.ok(!existsSync(at), args.join(" "));
  }
});
