/** Where a trajectory draws noise: everywhere, or only in the steps that train. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { disposeRecord, Policy, resolveConfig, sampleBranches, Trainer, type BranchBatch } from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { RunReader } from "../src/runs/index.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig, tinyValues } from "./support/tiny.js";

const context = { progress: silent };
const policy = Policy.forTraining(tinyConfig());
after(() => policy.dispose());

/** Two roots of two branches, all of whose four steps are recorded, in stages that draw other noise. */
const sample = (noise: string, { seed = 42, skipLast = 0 } = {}): Promise<BranchBatch> =>
  sampleBranches(
    policy,
    { stage: 0, prompts: ["a cat", "a cat"], interval: 4, skipLast },
    tinyConfig({ seed, sample: { noise } }),
    context,
  );

const logProbs = ({ logProbs }: BranchBatch): number[][] =>
  Array.from({ length: logProbs!.size(0) }, (_, row) => logProbs!.select(0, row).toArray());

test("with noise in the interval alone, skipped steps have no density, and branches part before them", async () => {
  const everywhere = await sample("everywhere", { skipLast: 2 });
  const window = await sample("interval", { skipLast: 2 });
  assert.ok(logProbs(everywhere).every((row) => row.every((value) => value !== 0)));
  for (const row of logProbs(window)) {
    assert.ok(row[0] !== 0 && row[1] !== 0);
    assert.deepEqual(row.slice(2), [0, 0]);
  }
  const states = (batch: BranchBatch, count: number) => batch.latents.narrow(1, 0, count);
  assert.ok(states(window, 3).equal(states(everywhere, 3)), "the trained steps draw the same noise");
  assert.ok(!window.latents.select(1, 4).equal(everywhere.latents.select(1, 4)));
  assert.ok(!window.latents.select(1, 4).select(0, 0).equal(window.latents.select(1, 4).select(0, 1)));
  [everywhere, window].forEach(disposeRecord);
});

test("roots are deterministic up to the split, and still differ by their first noise", async () => {
  const roots = (noise: string): Promise<BranchBatch> =>
    sampleBranches(
      policy,
      { stage: 0, prompts: ["a cat", "a cat"], interval: 1 },
      tinyConfig({ sample: { noise } }),
      context,
    );
  const [window, everywhere] = [await roots("interval"), await roots("everywhere")];
  const splits = (batch: BranchBatch) => [0, 2].map((row) => batch.latents.select(0, row).select(0, 0));
  const [first, second] = splits(window);
  assert.ok(!first!.equal(second!));
  assert.ok(!first!.equal(splits(everywhere)[0]!));
  [window, everywhere].forEach(disposeRecord);
});

test("a training in a window learns, and every trained ratio is that of a step with noise", async () => {
  const config = tinyConfig({ stages: 1, sample: { noise: "interval" }, interval: { first: 3, last: 3, skipLast: 1 } });
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), config, { reward: redness });
  const metrics = await trainer.runStage(0);
  trainer.dispose();
  assert.ok(metrics.updates > 0 && metrics.gradNorm! > 0);
  assert.ok(Math.abs(metrics.firstRatioMin! - 1) < 1e-5 && Math.abs(metrics.firstRatioMax! - 1) < 1e-5);
  assert.ok(metrics.ratioMax! > metrics.ratioMin!);
});

const plugin = (name: string): string => join(repository, "dist/examples/plugins", `${name}.js`);

test("a scheduler without such steps is refused before anything is written", async () => {
  await import(plugin("scheduler"));
  const folder = join(temporaryFolder(), "run");
  const config = resolveConfig(tinyValues, { scheduler: { name: "ddpm" }, sample: { noise: "interval" } });
  await assert.rejects(Trainer.open(folder, config, { reward: redness }), {
    name: "InputError",
    message: /"everywhere" for the scheduler ddpm, which has no steps without noise, but received "interval"/,
  });
  assert.ok(!RunReader.exists(folder));
});

test("an objective on final latents trains on trajectories without any noise", async () => {
  await import(plugin("objective"));
  const values = {
    stages: 1,
    scheduler: { eta: 0 },
    objective: { name: "awr" },
    branch: { count: 1 },
    select: { mode: "all" },
    prompts: { train: ["a cat"] },
  };
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), tinyConfig(values), { reward: redness });
  const metrics = await trainer.runStage(0);
  trainer.dispose();
  assert.ok(metrics.updates > 0 && metrics.gradNorm! > 0);
  assert.throws(() => tinyConfig(values, { branch: { count: 2 } }), /branch.count 1 for a scheduler without noise/);
  assert.throws(() => tinyConfig(values, { train: { stepWeights: "change" } }), /does not learn from steps/);
});
