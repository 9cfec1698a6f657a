// A run that goes wrong says so while it runs, at its end, and in its folder.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { silent } from "../src/base/progress.js";
import { Experiment } from "../src/eval/index.js";
import { RunReader } from "../src/runs/index.js";
import { temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig } from "./support/tiny.js";

test("a reward without variance is warned of once, and kept stage by stage", async () => {
  const [run, lines] = [join(temporaryFolder(), "flat"), [] as string[]];
  const progress = { ...silent, log: (line: string) => void lines.push(line) };
  const reward = (_: unknown, prompts: readonly string[]): number[] => prompts.map(() => 1);
  const experiment = await Experiment.open(run, tinyConfig(), { reward, progress });
  const { warnings } = await experiment.run();
  experiment.dispose();
  const said = lines.filter((line) => line.startsWith("warning: "));
  assert.equal(said.length, 2, said.join("\n"));
  assert.match(said.join("\n"), /prompts had images of equal reward only/);
  assert.match(said.join("\n"), /none of 6 images was selected/);
  assert.equal(warnings.length, 2);
  assert.match(warnings[1]!, /\(after 1 to 2 stages, 2 times\)$/);
  const kept = readFileSync(join(run, "warnings.jsonl"), "utf8").trim().split("\n");
  assert.equal(kept.length, 4);
  const [first] = new RunReader(run).metrics();
  assert.ok(first!.promptGroups! > 0);
  assert.equal(first!.flatGroups, first!.promptGroups);
});

test("a ratio that runs away is warned of; a healthy run is not", async () => {
  for (const [learningRate, expected] of [
    [1, /^the ratio runs away: .*train\.learningRate/],
    [1e-5, undefined],
  ] as const) {
    const run = join(temporaryFolder(), "run");
    const config = tinyConfig({ train: { learningRate, epochs: 3 }, select: { mode: "all" } });
    const experiment = await Experiment.open(run, config, { reward: redness });
    const { warnings } = await experiment.run();
    experiment.dispose();
    if (expected === undefined) assert.ok(!existsSync(join(run, "warnings.jsonl")), warnings.join("\n"));
    else
      assert.ok(
        warnings.some((warning) => expected.test(warning)),
        warnings.join("\n"),
      );
  }
});
