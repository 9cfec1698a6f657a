// The loop's invariants, on the real engine and the narrow Stable Diffusion of the golden vectors.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  disposeRecord,
  Policy,
  sampleBranches,
  sampleStage,
  selectStage,
  Trainer,
  trainStage,
  updatePolicy,
  type BranchBatch,
  type Config,
  type TrainSet,
} from "../src/b2/index.js";
import { Interrupted } from "../src/base/errors.js";
import { silent } from "../src/base/progress.js";
import { AdamW } from "../src/optim/index.js";
import { RunReader, type Cost, type StageMetrics, type UpdateMetrics } from "../src/runs/index.js";
import { liveTensors, type Tensor } from "../src/torch/index.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { collectGarbage, redness, tinyConfig } from "./support/tiny.js";

const prompts = ["a cat", "red apple", "a cat"];
const context = { progress: silent };
const policy = Policy.forTraining(tinyConfig());
after(() => policy.dispose());

const sample = (config: Config, interval = 3): Promise<BranchBatch> =>
  sampleBranches(policy, { stage: 1, prompts, interval }, config, context);

const largestDifference = (a: Tensor, b: Tensor): number => a.sub(b).abs().amax().item();

const asTrainSet = (batch: BranchBatch, rows = batch.keys.map((_, i) => i)): TrainSet => {
  const parts = (t: Tensor): Tensor => t.slice(0, 0, rows.length).clone();
  return {
    ...batch,
    keys: batch.keys.slice(0, rows.length),
    latents: parts(batch.latents),
    logProbs: parts(batch.logProbs!),
    advantages: rows.map((row) => (row % 2 === 0 ? 1 : -1.5)),
  };
};

test("the same seed gives the same bits twice, another seed others", async () => {
  const [a, b, c] = [await sample(tinyConfig()), await sample(tinyConfig()), await sample(tinyConfig({ seed: 7 }))];
  assert.ok(a.latents.equal(b.latents) && a.logProbs!.equal(b.logProbs!));
  assert.ok(!a.latents.equal(c.latents));
  [a, b, c].forEach(disposeRecord);
});

test("a sample does not depend on how it was batched, nor on how many others there are", async () => {
  const one = await sample(tinyConfig({ sample: { batchSize: 1 } }));
  for (const batchSize of [2, 5, 64]) {
    const other = await sample(tinyConfig({ sample: { batchSize } }));
    assert.ok(largestDifference(one.latents, other.latents) < 1e-4);
    assert.ok(largestDifference(one.logProbs!, other.logProbs!) < 1e-4);
    disposeRecord(other);
  }
  const more = await sample(tinyConfig({ branch: { count: 3 } }));
  const first = more.latents.narrow(0, 0, 2);
  assert.ok(largestDifference(one.latents.narrow(0, 0, 2), first) < 1e-4);
  [one, more].forEach(disposeRecord);
});

test("branches of a root agree up to the split and part there", async () => {
  const batch = await sample(tinyConfig());
  const start = batch.latents.select(1, 0);
  const end = batch.latents.select(1, 3);
  assert.ok(start.select(0, 0).equal(start.select(0, 1)));
  assert.ok(!end.select(0, 0).equal(end.select(0, 1)));
  assert.ok(!start.select(0, 0).equal(start.select(0, 4)), "two roots of one prompt start from their own noise");
  assert.deepEqual(batch.timesteps.length, 3);
  disposeRecord(batch);
});

test("the first ratio is 1 before any update, whatever the micro-batch", async () => {
  for (const guidanceScale of [1, 5]) {
    const config = (microBatch: number): Config =>
      tinyConfig({ sample: { guidanceScale }, train: { microBatch, samplesPerUpdate: 100, epochs: 1 } });
    const own = Policy.forTraining(config(1));
    const batch = await sampleBranches(own, { stage: 0, prompts, interval: 3 }, config(1), context);
    for (const microBatch of [1, 4, 7, 100]) {
      const still = new AdamW(new Map(), {});
      const [update] = await updatePolicy(own, { optimizer: still }, batchOf(batch), config(microBatch), context);
      assert.equal(update!.pairs, 18);
      assert.ok(Math.abs(update!.ratioMin! - 1) < 1e-5 && Math.abs(update!.ratioMax! - 1) < 1e-5);
      for (const parameter of own.parameters.values()) parameter.grad = null;
    }
    disposeRecord(batch);
    own.dispose();
  }
});

const batchOf = (batch: BranchBatch): TrainSet => ({
  ...batch,
  advantages: batch.keys.map((_, i) => (i % 2 ? 1 : -1)),
});

test("the gradient does not depend on the micro-batch, and is the mean over micro-batches of the reference", async () => {
  const batch = await sample(tinyConfig());
  const trainSet = asTrainSet(batch);
  const gradientOf = async (microBatch: number): Promise<number[]> => {
    const own = Policy.forTraining(tinyConfig());
    const grads: number[] = [];
    const optimizer = {
      step: () => {
        for (const p of own.parameters.values()) if (p.grad !== null) grads.push(...p.grad.toArray());
      },
      zeroGrad: () => {
        for (const p of own.parameters.values()) p.grad = null;
      },
    } as AdamW;
    const config = tinyConfig({ train: { microBatch, samplesPerUpdate: 100, epochs: 1, maxGradNorm: 1e9 } });
    await updatePolicy(own, { optimizer }, trainSet, config, context);
    own.dispose();
    return grads;
  };
  const all = await gradientOf(100);
  const scale = Math.max(...all.map(Math.abs));
  assert.ok(scale > 0);
  for (const microBatch of [1, 2, 7]) {
    const some = await gradientOf(microBatch);
    assert.equal(some.length, all.length);
    assert.ok(some.every((g, i) => Math.abs(g - all[i]!) < 1e-4 * scale));
  }
  [batch, trainSet].forEach(disposeRecord);
});

test("an empty selection is no update; a single sample and a left-over are one each", async () => {
  const batch = await sample(tinyConfig());
  const own = Policy.forTraining(tinyConfig());
  const optimizer = new AdamW(own.parameters, { lr: 1e-3 });
  const config = tinyConfig({ train: { epochs: 1, samplesPerUpdate: 4 } });
  const pairs = async (rows: number[]): Promise<number[]> => {
    const trainSet = asTrainSet(batch, rows);
    const updates = await updatePolicy(own, { optimizer }, trainSet, config, context);
    disposeRecord(trainSet);
    return updates.map((update) => update.pairs);
  };
  assert.deepEqual(await pairs([]), []);
  assert.deepEqual(await pairs([0]), [3]);
  assert.deepEqual(await pairs([0, 1, 2, 3, 4]), [12, 3]);
  disposeRecord(batch);
  own.dispose();
});

test("timestepFraction leaves timesteps out; dpo trains on pairs of branches", async () => {
  const batch = await sample(tinyConfig());
  const own = Policy.forTraining(tinyConfig());
  const optimizer = new AdamW(own.parameters, { lr: 1e-3 });
  const run = async (layer: object, rows?: number[]): Promise<readonly UpdateMetrics[]> => {
    const trainSet = asTrainSet(batch, rows);
    const config = tinyConfig({ train: { epochs: 1, samplesPerUpdate: 100 } }, layer);
    const updates = await updatePolicy(own, { optimizer }, trainSet, config, context);
    disposeRecord(trainSet);
    return updates;
  };
  assert.equal((await run({ train: { timestepFraction: 0.34 } }))[0]!.pairs, 6);
  // Rows 0..4 hold two whole roots; the fifth row has lost its sibling.
  const [dpo] = await run({ objective: { name: "dpo" } }, [0, 1, 2, 3, 4]);
  assert.equal(dpo!.pairs, 6);
  assert.equal(typeof dpo!.objective["margin"], "number");
  const [recomputed] = await run({ train: { oldLogProbs: "recomputed" } });
  assert.ok(Math.abs(recomputed!.ratioMin! - 1) < 1e-5);
  disposeRecord(batch);
  own.dispose();
});

/** Everything in a run's stages that is not a time or a memory size. */
function contents(folder: string): Record<string, unknown> {
  const run = new RunReader(folder);
  return Object.fromEntries(
    run.finishedStages().map((stage) => [
      stage,
      {
        lora: createHash("sha256")
          .update(readFileSync(run.stagePath(stage, "lora")))
          .digest("hex"),
        samples: run.samples(stage),
        updates: run.updates(stage),
      },
    ]),
  );
}

test("a run leaves a readable folder, and one that was interrupted goes on to the same numbers", async () => {
  const config = tinyConfig({ stages: 3 });
  const whole = join(temporaryFolder(), "whole");
  const trainer = await Trainer.open(whole, config, { reward: redness });
  await trainer.runAll();
  trainer.dispose();
  const reader = new RunReader(whole);
  assert.deepEqual(reader.finishedStages(), [0, 1, 2]);
  assert.deepEqual(reader.config(), config);
  assert.equal(reader.metrics()[1]!.trainedSteps, 2);
  assert.equal(reader.metrics()[2]!.trainedSteps, 3);
  assert.equal(reader.samples(0).length, 6);
  assert.equal(reader.samples(0).filter(({ image }) => image !== undefined).length, 2);
  assert.equal(readdirSync(reader.stagePath(0, "images")).length, 2);
  const first = reader.metrics()[0]!;
  assert.ok(Math.abs(first.firstRatioMin! - 1) < 1e-5 && Math.abs(first.firstRatioMax! - 1) < 1e-5);
  assert.ok(first.updates > 0);
  const documented = readFileSync(join(repository, "docs/metrics.md"), "utf8");
  for (const name of Object.keys(first)) assert.ok(documented.includes(`\`${name}\``), `docs/metrics.md: ${name}`);
  for (const name of Object.keys(reader.updates(0)[0]!)) assert.ok(documented.includes(`\`${name}\``), name);
  assert.ok(!reader.has(0, "selected") && reader.has(2, "selected"), "only the last stage keeps its trajectories");
  const stored = reader.tensor(2, "selected", "latents");
  assert.deepEqual(stored.shape.slice(1), [4, 4, 4, 4]);
  assert.equal(stored.shape[0], reader.samples(2).filter(({ selected }) => selected).length);

  const broken = join(temporaryFolder(), "broken");
  const controller = new AbortController();
  let calls = 0;
  const interrupting = await Trainer.open(broken, config, {
    signal: controller.signal,
    reward: (images) => {
      if (++calls === 2) controller.abort();
      return redness(images);
    },
  });
  await assert.rejects(interrupting.runAll(), Interrupted);
  interrupting.dispose();
  assert.deepEqual(new RunReader(broken).finishedStages(), [0]);
  const resumed = await Trainer.open(broken, config, { reward: redness });
  assert.equal(resumed.nextStage, 1);
  await resumed.runAll();
  resumed.dispose();
  assert.deepEqual(contents(broken), contents(whole));

  // The same stages as three processes a stage would do them; a phase that is repeated replaces what it wrote.
  const phases = join(temporaryFolder(), "phases");
  for (let stage = 0; stage < 3; stage++) {
    for (const phase of [sampleStage, selectStage, selectStage, trainStage]) {
      const one = await Trainer.open(phases, config, { reward: redness });
      await phase(one, stage);
      one.dispose();
    }
  }
  assert.deepEqual(contents(phases), contents(whole));
  const counts = ({ cost }: StageMetrics): unknown => ({ ...cost, seconds: 0, processorSeconds: 0 });
  assert.deepEqual(new RunReader(phases).metrics().map(counts), reader.metrics().map(counts));
  assert.ok(!existsSync(reader.stagePath(2, "sampledTensors")));
});

test("a stage counts its queries and passes; whoever scored or predicted before does not count", async () => {
  // 3 roots x 2 branches, 4 steps of which the last 2 are branched, then 3: one more step of every branch.
  const config = tinyConfig({ select: { mode: "all" }, train: { epochs: 1 } });
  const sampling = [3 * 2 + 6 * 2, 3 * 1 + 6 * 3] as const;
  const training = [6 * 2, 6 * 3] as const;
  const costs = async (...layers: object[]): Promise<(Cost | null)[]> => {
    const trainer = await Trainer.open(join(temporaryFolder(), "run"), tinyConfig(config, ...layers), {
      reward: redness,
    });
    disposeRecord(await trainer.sample(0));
    await trainer.runAll();
    const costs = trainer.run.metrics().map(({ cost }) => cost);
    trainer.dispose();
    return costs;
  };
  const counted = (all: readonly (Cost | null)[]): number[][] =>
    all.map((cost) => [cost!.queries, cost!.forwardPasses, cost!.backwardPasses]);

  // With guidance an image passes twice.
  const first = 2 * (sampling[0] + training[0]);
  const guided = [
    [6, first, 2 * training[0]],
    [12, first + 2 * (sampling[1] + training[1]), 2 * (training[0] + training[1])],
  ];
  const ppo = await costs();
  assert.deepEqual(counted(ppo), guided);
  assert.ok(ppo[0]!.seconds > 0 && ppo[1]!.seconds > ppo[0]!.seconds);
  assert.ok(ppo[0]!.processorSeconds > 0 && ppo[1]!.processorSeconds > ppo[0]!.processorSeconds);

  // The sampler's log-probs computed again go forward alone.
  const recomputed = await costs({ stages: 1, train: { oldLogProbs: "recomputed" } });
  assert.deepEqual(counted(recomputed), [[6, first + 2 * training[0], 2 * training[0]]]);
  const unguided = await costs({ stages: 1, sample: { guidanceScale: 1 } });
  assert.deepEqual(counted(unguided), [[6, sampling[0] + training[0], training[0]]]);
});

test("memory is flat from stage to stage and from run to run", async () => {
  // In turn, so that the first stage meets every prompt: their states stay.
  const config = tinyConfig({ stages: 3, prompts: { order: "in-turn" } });
  const left: number[] = [];
  for (let run = 0; run < 3; run++) {
    const trainer = await Trainer.open(join(temporaryFolder(), "run"), config, { reward: redness });
    const counts: number[] = [];
    await trainer.runAll({ after: (metrics) => void counts.push(metrics.liveTensors) });
    // The first stage makes Adam's moments and the texts' states.
    assert.equal(counts[1], counts[2], counts.join());
    trainer.dispose();
    await collectGarbage();
    left.push(liveTensors());
  }
  assert.equal(left[1], left[2], left.join());
});

test("interval.skipLast samples its steps but does not train them", async () => {
  const config = tinyConfig({ interval: { first: 3, last: 3, skipLast: 2 }, select: { mode: "all" } });
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), config, { reward: redness });
  const batch = await trainer.sample(0);
  const trainSet = trainer.select({
    ...batch,
    rewards: batch.keys.map(() => 0),
    parts: {},
    rewardSeconds: {},
    advantages: batch.keys.map(() => 1),
  });
  assert.deepEqual(trainSet.timesteps, batch.timesteps.slice(0, 1));
  assert.ok(trainSet.latents.equal(batch.latents.narrow(1, 0, 2)));
  assert.ok(trainSet.logProbs!.equal(batch.logProbs!.narrow(1, 0, 1)));
  const updates = await trainer.update(trainSet);
  assert.equal(
    updates.reduce((sum, { pairs }) => sum + pairs, 0),
    batch.keys.length * config.train.epochs,
  );
  [batch, trainSet].forEach(disposeRecord);
  trainer.dispose();
});

test("a stage whose rewards are all equal trains on nothing and finishes", async () => {
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), tinyConfig(), {
    reward: (_, batch) => batch.map(() => 1),
  });
  const metrics = await trainer.runStage(0);
  assert.equal(metrics.selected, 0);
  assert.equal(metrics.updates, 0);
  assert.equal(metrics.loss, null);
  await trainer.runStage(1);
  trainer.dispose();
});

test("rewards that are not one finite number an image are refused by name", async () => {
  const trainer = await Trainer.open(join(temporaryFolder(), "run"), tinyConfig(), { reward: () => [1] });
  await assert.rejects(trainer.runStage(0), /Expected 6 numbers, one per image, from the reward but received 1/);
  trainer.dispose();
  const nan = await Trainer.open(join(temporaryFolder(), "run"), tinyConfig(), { reward: (_, b) => b.map(() => NaN) });
  await assert.rejects(nan.runStage(0), /Expected a finite number from the reward but received NaN for image 0/);
  nan.dispose();
});

test("a folder with another run's config is refused", async () => {
  const folder = join(temporaryFolder(), "run");
  const trainer = await Trainer.open(folder, tinyConfig(), { reward: redness });
  await trainer.runStage(0);
  trainer.dispose();
  await assert.rejects(
    Trainer.open(folder, tinyConfig({ seed: 1 }), { reward: redness }),
    /other values for\n {2}seed: 42 -> 1\n/,
  );
});
