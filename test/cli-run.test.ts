// A training from the command line, as real processes: all at once, phase by phase, interrupted, and what uses it.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { b2, startB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const reward = join(folder, "reward.mjs");
writeFileSync(
  reward,
  `export default async (images, prompts) => {
    const mean = images.mean({ dim: [1, 2, 3] });
    return prompts.map((_, i) => mean.toArray()[i]);
  };`,
);
const config = join(folder, "config.json");
const values = {
  ...tinyValues,
  reward: { name: reward },
  eval: { ...tinyValues.eval, enabled: true, sheet: 2 },
};
writeFileSync(config, JSON.stringify(values));

test("b2 run trains, evaluates before and after, and leaves pictures; what it leaves can be used", async () => {
  const run = join(folder, "whole");
  const { code, stdout, stderr } = await b2("run", run, "--config", config);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /prompts +measure +before +after +change/);
  assert.match(stdout, /training +reward/);
  assert.match(stdout, /held-out +reward/);
  assert.match(stderr, /stage 1 \(2\/2\) {2}reward/);
  for (const picture of ["before.png", "before-after.png", "reward.png"]) assert.ok(existsSync(join(run, picture)));
  assert.deepEqual(new RunReader(run).finishedStages(), [0, 1]);

  const again = await b2("run", run);
  assert.equal(again.code, 0, again.stderr);
  assert.doesNotMatch(again.stderr, /stage 1 \(2\/2\) {2}reward/, "finished stages are not done again");

  const images = join(folder, "images");
  const generated = await b2("generate", "red cat", "--lora", run, "--count", "2", "--out", images);
  assert.equal(generated.code, 0, generated.stderr);
  assert.deepEqual(readdirSync(images).sort(), ["00-0-red-cat.png", "00-1-red-cat.png", "metadata.jsonl"]);

  const table = join(folder, "eval.json");
  const evaluated = await b2("eval", "--lora", run, "--compare", "--out", table);
  assert.equal(evaluated.code, 0, evaluated.stderr);
  assert.match(evaluated.stdout, /base +LoRA +change/);
  const json = JSON.parse(readFileSync(table, "utf8")) as Record<string, unknown>;
  assert.deepEqual(Object.keys(json), ["base", "LoRA"]);
});

test("b2 sample, select and train do the same, a phase at a time", async () => {
  const run = join(folder, "phases");
  for (let stage = 0; stage < 2; stage++) {
    for (const phase of ["sample", "select", "train"]) {
      const options = stage === 0 && phase === "sample" ? ["--config", config] : [];
      const { code, stdout, stderr } = await b2(phase, run, ...options);
      assert.equal(code, 0, stderr);
      assert.match(stdout, new RegExp(`^stage ${stage}: `));
    }
  }
  const lora = (name: string): string =>
    createHash("sha256")
      .update(readFileSync(new RunReader(join(folder, name)).stagePath(1, "lora")))
      .digest("hex");
  assert.equal(lora("phases"), lora("whole"));
  const early = await b2("train", run, "--stage", "0");
  assert.equal(early.code, 2);
  assert.match(early.stderr, /Expected the selected trajectories of stage 0/);
});

for (const signal of ["SIGINT", "SIGHUP"] as const) {
  test(`${signal} finishes the step and exits with 130, and says how to go on`, () => interrupted(signal));
}

async function interrupted(signal: NodeJS.Signals): Promise<void> {
  const run = join(folder, `interrupted-${signal}`);
  const { child, outcome } = startB2("run", run, "--config", config, "--set", "stages=40");
  await new Promise<void>((started) => {
    child.stderr!.on("data", (data: Buffer) => {
      if (data.toString().includes("stage 0 (1/40)  reward")) started();
    });
  });
  child.kill(signal);
  const { code, stderr } = await outcome;
  assert.equal(code, 130, stderr);
  assert.match(stderr, /Stopping after this step.* b2 run .*interrupted-\w+ resumes after the last finished stage/);
  assert.ok(new RunReader(run).finishedStages().length >= 1);
  assert.ok(!readdirSync(run).some((name) => name.endsWith(".tmp")));
}
