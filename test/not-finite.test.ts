// NaN and infinity in latents, losses and gradients: what is skipped, what is told, and when a run stops.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { z } from "zod";
import {
  disposeRecord,
  Policy,
  registerObjective,
  sampleBranches,
  Trainer,
  updatePolicy,
  type TrainSet,
} from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { silent, type Notice } from "../src/base/progress.js";
import { Experiment } from "../src/eval/index.js";
import { AdamW, GradScaler } from "../src/optim/index.js";
import type { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { RunReader, type UpdateMetrics } from "../src/runs/index.js";
import { allFinite, noGrad, tidy, zerosLike } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig } from "./support/tiny.js";

const folder = temporaryFolder();

/** A loss of 0 whose gradient is NaN at one timestep, and a loss that is NaN from the second call on. */
const faults = { rootAt: NaN, callsBefore: Infinity };
let calls = 0;
registerObjective({
  name: "faulty",
  summary: "A loss that is no number, or has no gradient",
  learnsFrom: "transitions",
  options: z.object({}),
  loss: ({ logProb, oldLogProb, timesteps }) => {
    const ratio = logProb.sub(oldLogProb).exp();
    // The square root's slope at 0 is infinite, and that times 0 is no number.
    const isFlat = timesteps.includes(faults.rootAt);
    const loss = isFlat ? ratio.mul(0).sqrt().mean() : ratio.mean();
    return { loss: calls++ >= faults.callsBefore ? loss.mul(NaN) : loss, metrics: {} };
  },
});

/** What updatePolicy says and returns for six samples of three timesteps, of which `poison` may change some. */
async function updated(
  layer: object,
  poison: (trainSet: TrainSet) => TrainSet = (trainSet) => trainSet,
  scaler?: GradScaler,
): Promise<{ updates: readonly UpdateMetrics[]; notices: Notice[]; isFinite: boolean; isChanged: boolean }> {
  const config = tinyConfig({ train: { epochs: 1, samplesPerUpdate: 2, microBatch: 4 } }, layer);
  const policy = Policy.forTraining(config);
  const notices: Notice[] = [];
  const progress = { ...silent, warn: (notice: Notice) => void notices.push(notice) };
  const prompts = ["a cat", "a dog", "red apple"];
  const batch = await sampleBranches(policy, { stage: 1, prompts, interval: 3 }, config, { progress });
  const before = tidy(() => [...policy.parameters.values()].map((parameter) => parameter.toArray()));
  const optimizer = new AdamW(policy.parameters, { lr: 1e-3 });
  const trainSet = poison({ ...batch, advantages: [1, -1, 1, -1, 1, -1] });
  try {
    const updates = await updatePolicy(policy, { optimizer, ...(scaler && { scaler }) }, trainSet, config, {
      progress,
    });
    const parameters = [...policy.parameters.values()];
    const isChanged = parameters.some((parameter, i) =>
      parameter.toArray().some((value, k) => value !== before[i]![k]),
    );
    return { updates, notices, isFinite: parameters.every(allFinite), isChanged };
  } finally {
    optimizer.dispose();
    disposeRecord(batch);
    policy.dispose();
  }
}

const withAdvantage =
  (row: number, value: number) =>
  (trainSet: TrainSet): TrainSet => {
    return { ...trainSet, advantages: trainSet.advantages.map((a, i) => (i === row ? value : a)) };
  };

describe("an optimiser step", () => {
  it("whose loss is NaN is skipped, and its sample named at each of its timesteps; the others are made", async () => {
    const healthy = await updated({});
    assert.deepEqual(
      healthy.updates.map(({ skipped, notFinite }) => [skipped, notFinite]),
      [
        [0, undefined],
        [0, undefined],
        [0, undefined],
      ],
    );
    const { updates, notices, isFinite, isChanged } = await updated({}, withAdvantage(3, NaN));
    assert.ok(isFinite && isChanged);
    assert.equal(updates.filter(({ skipped }) => skipped === 1).length, 1);
    const { update, notFinite } = updates.find(({ skipped }) => skipped === 1)!;
    // Two samples of three timesteps are micro-batches of 4 and 2: the first of those at fault is looked through.
    assert.ok(notFinite!.length > 0 && notFinite!.length <= 3);
    for (const { part, stage, root, branch, prompt } of notFinite!) {
      assert.deepEqual([part, stage, root, branch, prompt], ["loss", 1, 1, 1, "a dog"]);
    }
    assert.equal(notices.length, 1);
    assert.equal(notices[0]!.kind, "not-finite-steps");
    assert.ok(
      notices[0]!.text.startsWith(
        `optimiser step ${update} of stage 1 is skipped: its loss is NaN or infinite, for root 1, branch 1 ("a dog") at timestep `,
      ),
      notices[0]!.text,
    );
  });

  it("whose gradient alone is NaN is skipped too, and the timestep named", async () => {
    const timesteps = await timestepsOfTiny();
    faults.rootAt = timesteps[1]!;
    const { updates, isFinite } = await updated({ objective: { name: "faulty" } });
    faults.rootAt = NaN;
    assert.ok(isFinite);
    for (const { skipped, loss, notFinite } of updates) {
      assert.equal(skipped, 1);
      assert.ok(Number.isFinite(loss));
      assert.ok(notFinite!.length > 0);
      for (const { part, timestep } of notFinite!) assert.deepEqual([part, timestep], ["gradient", timesteps[1]]);
    }
  });

  it("of a loss scale that is too large is no fault, and is not counted", async () => {
    // With this scale every gradient overflows float32; the fourth step would be one too many.
    const { updates, notices, isChanged } = await updated(
      { train: { epochs: 1, samplesPerUpdate: 2, microBatch: 4, mostSkipped: 0 } },
      undefined,
      new GradScaler({ initScale: 1e300, backoffFactor: 0.5 }),
    );
    assert.deepEqual(
      updates.map(({ skipped, notFinite }) => [skipped, notFinite]),
      updates.map(() => [1, undefined]),
    );
    assert.ok(!isChanged);
    assert.deepEqual(notices, []);
  });

  it("that is one too many in a row stops the update, with the weights as they were", async () => {
    await assert.rejects(
      updated({ train: { epochs: 2, samplesPerUpdate: 2, microBatch: 4, mostSkipped: 3 } }, (trainSet) => {
        return { ...trainSet, advantages: trainSet.advantages.map(() => NaN) };
      }),
      (error: Error) => {
        assert.ok(error instanceof InputError);
        assert.match(
          error.message,
          /^Expected at most 3 optimiser steps in a row .*\(train\.mostSkipped\) but received 4/,
        );
        assert.match(error.message, /step 3 of stage 1: its loss is NaN or infinite, for root \d, branch \d \("/);
        return true;
      },
    );
  });
});

async function timestepsOfTiny(): Promise<readonly number[]> {
  const policy = Policy.forTraining(tinyConfig());
  const batch = await sampleBranches(policy, { stage: 0, prompts: ["a cat"], interval: 3 }, tinyConfig(), {
    progress: silent,
  });
  disposeRecord(batch);
  policy.dispose();
  return batch.timesteps;
}

describe("a run", () => {
  const config = tinyConfig({ prompts: { order: "in-turn" }, select: { mode: "all" }, sample: { batchSize: 2 } });

  it("counts steps that are skipped from stage to stage, and goes on from its state with a larger limit", async () => {
    const run = join(folder, "faulty");
    const faulty = { objective: { name: "faulty" }, train: { epochs: 1, microBatch: 100, mostSkipped: 2 } };
    const [first, notices] = [tinyConfig(config, faulty), [] as Notice[]];
    const progress = { ...silent, warn: (notice: Notice) => void notices.push(notice) };
    // The first step is made; each later one is skipped.
    [calls, faults.callsBefore] = [0, 1];
    const trainer = await Trainer.open(run, first, { reward: redness, progress });
    await assert.rejects(trainer.runAll(), /at most 2 optimiser steps in a row .* but received 3, .* of stage 1: /);
    trainer.dispose();
    const reader = new RunReader(run);
    assert.deepEqual(reader.finishedStages(), [0]);
    const { updates, notFiniteSteps, skipped } = reader.stageMetrics(0);
    assert.deepEqual([updates, notFiniteSteps], [2, 1]);
    assert.equal(skipped, 0.5);
    assert.equal(notices.filter(({ kind }) => kind === "not-finite-steps").length, 2);

    [calls, faults.callsBefore] = [0, Infinity];
    const more = await Trainer.open(run, tinyConfig(first, { train: { mostSkipped: 9 } }), { reward: redness });
    await more.runAll();
    more.dispose();
    assert.deepEqual(reader.finishedStages(), [0, 1]);
    assert.equal(reader.stageMetrics(1).notFiniteSteps, 0);
  });

  it("leaves out a root whose latents are NaN, names it, and trains on the others as if it were not there", async () => {
    const folders = ["healthy", "poisoned"].map((name) => join(folder, name));
    const notices: Notice[] = [];
    const progress = { ...silent, warn: (notice: Notice) => void notices.push(notice) };
    for (const run of folders) {
      const experiment = await Experiment.open(run, tinyConfig(config, { stages: 1 }), { reward: redness, progress });
      if (run.endsWith("poisoned")) poisonWord(experiment.trainer.policy.model as StableDiffusionPipeline, "dog");
      const { warnings } = await experiment.run();
      assert.equal(
        warnings.some((text) => text.includes("1 roots were left out")),
        run.endsWith("poisoned"),
      );
      experiment.dispose();
    }
    const [healthy, poisoned] = folders.map((run) => new RunReader(run)) as [RunReader, RunReader];
    const dogs = healthy.samples(0).filter(({ prompt }) => prompt === "a dog");
    assert.deepEqual([...new Set(dogs.map(({ root }) => root))], [1]);
    const reward = ({ root, branch, reward }: { root: number; branch: number; reward: number }) => [
      root,
      branch,
      reward,
    ];
    assert.deepEqual(
      poisoned.samples(0).map(reward),
      healthy
        .samples(0)
        .filter(({ prompt }) => prompt !== "a dog")
        .map(reward),
    );
    const { images, selected, notFiniteRoots } = poisoned.stageMetrics(0);
    assert.deepEqual([images, selected, notFiniteRoots], [4, 4, 1]);
    assert.equal(healthy.stageMetrics(0).notFiniteRoots, 0);
    const [notice] = notices.filter(({ text }) => text.includes("goes on without"));
    assert.match(notice!.text, /^stage 0 goes on without 1 of 3 roots, .*: root 1 \("a dog"\)$/);
    assert.match(readFileSync(join(poisoned.folder, "warnings.jsonl"), "utf8"), /"kind":"not-finite-roots"/);
  });

  it("stops where most roots are NaN, and keeps what is finished", async () => {
    const run = join(folder, "all");
    const trainer = await Trainer.open(run, config, { reward: redness });
    await trainer.runStage(0);
    const [weight] = trainer.policy.parameters.values();
    noGrad(() => tidy(() => weight!.copy_(zerosLike(weight!).add(NaN))));
    await assert.rejects(trainer.runStage(1), (error: Error) => {
      assert.ok(error instanceof InputError);
      assert.match(
        error.message,
        /^Expected latents of numbers for at least half of the 3 roots of stage 1 .* for 3, /,
      );
      return true;
    });
    trainer.dispose();
    assert.deepEqual(new RunReader(run).finishedStages(), [0]);
  });
});

/** Overwrites the embedding of a word's last token with NaN: every prompt with the word encodes to NaN. */
function poisonWord({ textEncoder, tokenizer }: StableDiffusionPipeline, word: string): void {
  const token = tokenizer.tokenize(word).at(-1)!;
  const table = [...textEncoder.parameters()].find(([name]) => name.endsWith("token_embedding.weight"))![1];
  noGrad(() => tidy(() => table.select(0, token).fill_(NaN)));
}
