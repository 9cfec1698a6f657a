/**
 * Weights that follow those in training, on the narrow model of the golden vectors: the moving average that is the
 * run's result, and the weights that sample where they lag behind.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { disposeRecord, Policy, promptsOfStage, sampleBranches, Trainer, type Config } from "../src/b2/index.js";
import { weightsOfRun } from "../src/b2/policy/weights.js";
import { silent } from "../src/base/progress.js";
import { RunReader } from "../src/runs/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { liveTensors, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { collectGarbage, tinyConfig } from "./support/tiny.js";

const LORA = "pytorch_lora_weights.safetensors";
const [decay, emaDecay] = [0.4, 0.15];

/** One optimiser step a stage, so that the run folder has the weights after every one. */
const config = tinyConfig({
  stages: 3,
  rewards: ["brightness"],
  objective: { name: "forward", decay },
  select: { mode: "all" },
  train: { epochs: 1, samplesPerUpdate: 100, ema: emaDecay, learningRate: 1e-2 },
});

async function train(chosen: Config, folder: string, until = chosen.stages): Promise<RunReader> {
  const trainer = await Trainer.open(folder, chosen);
  trainer.restore(trainer.nextStage);
  for (let stage = trainer.nextStage; stage < until; stage++) await trainer.runStage(stage);
  trainer.dispose();
  return new RunReader(folder);
}

/** All values of a file in a row, by the order of its keys. */
const valuesOf = (file: string): number[] =>
  tidy(() => {
    const tensors = [...loadSafetensors(file)].sort(([a], [b]) => (a < b ? -1 : 1));
    return tensors.flatMap(([, value]) => value.toArray());
  });

const assertNear = (actual: readonly number[], expected: readonly number[]): void => {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-6, `${value} for ${expected[i]}`));
};

describe("weights that follow those in training", async () => {
  const folder = join(temporaryFolder(), "run");
  await collectGarbage();
  const live = liveTensors();
  const fresh = Policy.forTraining(config);
  const start = join(temporaryFolder(), LORA);
  fresh.trainable!.save(start);
  fresh.dispose();
  const run = await train(config, folder);
  const trainer = await Trainer.open(folder, config);
  after(() => trainer.dispose());

  const ownFile = (stage: number): string => run.stagePath(stage, "lora");
  const file = (stage: number, of: "ema" | "sampler"): string => join(run.stagePath(stage, of), LORA);

  it("are the average, whose decay grows to its bound, and the lagging ones, as the formulas have it", () => {
    let [ema, sampler] = [valuesOf(start), valuesOf(start)];
    for (const stage of [0, 1, 2]) {
      const own = valuesOf(ownFile(stage));
      const d = Math.min(emaDecay, (2 + stage) / (11 + stage)); // 2/11 and more: the bound holds from the first step
      ema = ema.map((value, i) => d * value + (1 - d) * own[i]!);
      sampler = sampler.map((value, i) => decay * value + (1 - decay) * own[i]!);
      assertNear(valuesOf(file(stage, "ema")), ema);
      assertNear(valuesOf(file(stage, "sampler")), sampler);
      const distance = Math.hypot(...own.map((value, i) => value - ema[i]!));
      assert.ok(distance > 0 && Math.abs(run.stageMetrics(stage).emaDistance! / distance - 1) < 1e-4);
    }
  });

  it("come back when the run is interrupted, to the same bits", async () => {
    const other = join(temporaryFolder(), "resumed");
    await train(config, other, 1);
    const resumed = await train(config, other);
    for (const stage of [0, 1, 2]) {
      for (const part of [LORA, `ema/${LORA}`, `sampler/${LORA}`, "samples.jsonl", "updates.jsonl"]) {
        const of = (reader: RunReader): Buffer => readFileSync(join(reader.stagePath(stage, "metrics"), "..", part));
        assert.ok(of(resumed).equals(of(run)), `stage ${stage}: ${part}`);
      }
    }
  });

  it("are the result of the run and what is evaluated, without touching those in training", async () => {
    assert.deepEqual(weightsOfRun(folder), { kind: "lora", path: file(2, "ema") });
    trainer.restore(3);
    const saved = async (work: (save: () => Promise<void>) => Promise<void>): Promise<number[]> => {
      const to = join(temporaryFolder(), LORA);
      await work(() => Promise.resolve(trainer.policy.trainable!.save(to)));
      return valuesOf(to);
    };
    assert.deepEqual(await saved((save) => trainer.evaluating(save)), valuesOf(file(2, "ema")));
    assert.deepEqual(await saved((save) => save()), valuesOf(ownFile(2)));
  });

  it("sample the next stage, the lagging ones", async () => {
    trainer.restore(2);
    const latentsWith = async (weights: string): Promise<Tensor> => {
      trainer.policy.trainable!.load(weights);
      const prompts = promptsOfStage(trainer.prompts, 2, config);
      const rollout = { stage: 2, prompts, interval: 3, data: "final-latents" } as const;
      return (await sampleBranches(trainer.policy, rollout, config, { progress: silent })).latents;
    };
    const batch = await trainer.sample(2);
    const [lagging, own] = [await latentsWith(file(1, "sampler")), await latentsWith(ownFile(1))];
    assert.ok(batch.latents.equal(lagging) && !batch.latents.equal(own));
    disposeRecord(batch);
    for (const latents of [lagging, own]) latents.dispose();
  });

  it("are not there without train.ema and decay, nor does anything stay in memory", async () => {
    const plain = tinyConfig({ stages: 1, rewards: ["brightness"] });
    const reader = await train(plain, join(temporaryFolder(), "plain"));
    assert.ok(!reader.has(0, "ema") && !reader.has(0, "sampler"));
    assert.equal(reader.stageMetrics(0).emaDistance, null);
    assert.equal(weightsOfRun(reader.folder).path, reader.stagePath(0, "lora"));
    trainer.dispose();
    await collectGarbage();
    assert.equal(liveTensors(), live);
  });
});

it("with full fine-tuning the average is the model that the run leaves", async () => {
  const full = tinyConfig({
    stages: 2,
    rewards: ["brightness"],
    select: { mode: "all" },
    sample: { rootsPerStage: 1 },
    train: { parameters: "full", epochs: 1, ema: 0.9 },
    record: { optimizers: 1 },
  });
  const run = await train(full, join(temporaryFolder(), "full"));
  const weights = "diffusion_pytorch_model.safetensors";
  const average = readFileSync(join(run.stagePath(1, "ema"), weights));
  assert.ok(readFileSync(join(run.folder, "model/unet", weights)).equals(average));
  assert.ok(!readFileSync(join(run.stagePath(1, "denoiser"), weights)).equals(average));
  assert.deepEqual(weightsOfRun(run.folder), { kind: "denoiser", path: run.stagePath(1, "ema") });
  assert.ok(!existsSync(run.stagePath(0, "ema")));
});
