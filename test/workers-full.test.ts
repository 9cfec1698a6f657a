// Full fine-tuning by several workers, whose gradients are all-reduced in buckets while backward goes on, against one
// process: with a tree, replay, an out-of-memory halving on one rank, a kill while images are scored, another number of
// workers from there, and optimiser steps that are NaN.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { RunReader, type UpdateMetrics } from "../src/runs/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { distributedBackends, tidy, type Tensor } from "../src/torch/index.js";
import { fixtures, repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";
import { endWorkers, startWorkers, type WorkerProcess } from "./support/workers.js";

const skip = distributedBackends().length === 0 && "the addon is built without Gloo";
afterEach(endWorkers);

const folder = temporaryFolder();
const path = (name: string): string => join(folder, name);
const command = (run: string): string[] => [
  ...["--import", join(repository, "dist/test/workers-full.fixture.js"), join(repository, "bin/b2.js")],
  ...["run", path(run), "--config", path("config.json")],
];

// Scores red, writes down what it is asked, and ends rank 0 at its second batch of a stage.
writeFileSync(
  path("reward.mjs"),
  `
import { appendFileSync } from "node:fs";
let batches = 0;
export default async (images, prompts, { keys }) => {
  const { ASKED, DIE_IN, RANK } = process.env;
  if (keys[0].group.startsWith(DIE_IN + "/") && RANK === "0" && ++batches === 2) process.kill(process.pid, "SIGKILL");
  if (ASKED) appendFileSync(ASKED, keys.map(({ group, index }) => group + "/" + index + "\\n").join(""));
  return images.select(1, 0).mean({ dim: [1, 2] }).toArray();
};
`,
);
writeFileSync(
  path("config.json"),
  JSON.stringify({
    ...tinyValues,
    stages: 2,
    interval: { first: 2, last: 2 },
    model: { ...tinyValues.model, threads: 1 },
    sample: { ...tinyValues.sample, batchSize: 2, decodeBatchSize: 3 },
    branch: { count: 2, splits: [{ at: 1, count: 2 }] },
    select: { mode: "all" },
    advantage: { mode: "group-relative" },
    replay: { stages: 1, share: 0.5 },
    rewards: [{ name: "module", path: path("reward.mjs"), label: "red" }],
    // Adam divides what is rounding alone by what is rounding alone, unless epsilon is larger.
    train: {
      ...{ parameters: "full", learningRate: 1e-3, adamEpsilon: 1e-3, epochs: 1 },
      ...{ samplesPerUpdate: 6, microBatch: 2, mostSkipped: 1000 },
    },
    record: { images: 2, phases: "always" },
  }),
);

const asked = (name: string): string[] => readFileSync(path(name), "utf8").trim().split("\n");
const textOf = (workers: readonly WorkerProcess[]): string => workers.map(({ lines }) => lines.join("\n")).join("\n\n");
const weightsOf = (file: string): Map<string, Tensor> =>
  loadSafetensors(join(file, "diffusion_pytorch_model.safetensors"));

/** The largest difference between two denoisers. */
const distance = (one: string, other: string): number =>
  tidy(() => {
    const others = weightsOf(other);
    return Math.max(...[...weightsOf(one)].map(([name, value]) => value.sub(others.get(name)!).abs().amax().item()));
  });

const namesOf = ({ notFinite = [] }: UpdateMetrics): string[] => notFinite.map((pair) => JSON.stringify(pair));

test("full fine-tuning by workers that fail in many ways is that of one process", { skip }, async () => {
  const one = spawnSync(process.execPath, command("one"), {
    encoding: "utf8",
    env: { ...process.env, B2_THREADS: "1", ASKED: path("one.txt") },
  });
  assert.equal(one.status, 0, one.stderr);

  const two = await startWorkers(2, command("many"), {
    ...{ ASKED: path("two.txt"), DIE_IN: "stage-0001", OUT_OF_MEMORY_RANK: "1" },
  });
  const codes = await Promise.all(two.map(({ ended }) => ended));
  assert.deepEqual(codes, [null, 2], textOf(two));
  assert.match(two[1]!.lines.join("\n"), /^b2: Expected .*rank 0 on /m);
  assert.deepEqual(new RunReader(path("many")).stageMetrics(0).halvedBatches, { "train.microBatch": 1 });
  assert.match(two[0]!.lines.join("\n"), /train\.microBatch=1/);

  const three = await startWorkers(3, command("many"), { ASKED: path("three.txt") });
  assert.deepEqual(await Promise.all(three.map(({ ended }) => ended)), [0, 0, 0], textOf(three));

  // What rank 0 had scored of stage 1 before it was killed is not asked again.
  const ofStage1 = asked("one.txt").filter((image) => image.startsWith("stage-0001/"));
  const again = asked("three.txt").filter((image) => image.startsWith("stage-0001/"));
  assert.deepEqual(again.sort(), ofStage1.slice(3).sort());

  const [whole, many] = ["one", "many"].map((name) => new RunReader(path(name))) as [RunReader, RunReader];
  const samplesOf = (run: RunReader): string => readFileSync(run.stagePath(0, "samples"), "utf8");
  assert.equal(samplesOf(many), samplesOf(whole));
  let skipped = 0;
  for (const stage of [0, 1]) {
    const [expected, received] = [whole.updates(stage), many.updates(stage)];
    assert.deepEqual(
      received.map((update) => [update.pairs, update.skipped]),
      expected.map((update) => [update.pairs, update.skipped]),
    );
    // Of each worker's micro-batches the first at fault is named.
    for (const [i, update] of expected.entries()) {
      const names = namesOf(received[i]!);
      assert.ok(names.every((name) => name.includes('"a dog"')));
      assert.deepEqual(
        namesOf(update).filter((name) => !names.includes(name)),
        [],
      );
      if (update.skipped === 0) {
        assert.ok(Math.abs(received[i]!.gradNorm - update.gradNorm) < 1e-4 * update.gradNorm);
        assert.ok(Math.abs(received[i]!.loss - update.loss) < 1e-5);
      } else assert.equal(received[i]!.loss, update.loss);
      skipped += update.skipped;
    }
    assert.ok(stage === 0 || expected.some((update) => update.skipped === 0));
  }
  assert.ok(skipped > 0);
  // Steps with fewer micro-batches than workers.
  assert.ok(many.updates(1).some(({ pairs }) => pairs <= 4));
  const denoiser = (run: RunReader): string => run.stagePath(1, "denoiser");
  const far = distance(denoiser(many), denoiser(whole));
  assert.ok(far < 1e-5, `${far}`);
  assert.ok(distance(denoiser(whole), join(fixtures, "sd1/unet")) > 1e-3);
  assert.deepEqual(readdirSync(path("many")).sort(), readdirSync(path("one")).sort());
});
