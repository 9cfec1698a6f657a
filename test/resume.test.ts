// Runs that are taken up again: the same bits, under the same config and reward or not at all, on other resources.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { sampleStage, selectStage, Trainer, trainStage, type Config } from "../src/b2/index.js";
import { Experiment } from "../src/eval/index.js";
import { RunReader } from "../src/runs/index.js";
import { liveTensors, nativeBytes } from "../src/torch/index.js";
import { b2 } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { collectGarbage, redness, tinyConfig, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const configFile = (values: object): string => {
  const file = join(temporaryFolder(), "config.json");
  writeFileSync(file, JSON.stringify({ ...tinyValues, ...values }));
  return file;
};
const newRun = (): string => join(temporaryFolder(), "run");
const brightness = { rewards: ["brightness"], stages: 3 };

/** SHA-256 of each finished stage's LoRA. */
function loras(run: string): string[] {
  const reader = new RunReader(run);
  return reader.finishedStages().map((stage) => {
    return createHash("sha256")
      .update(readFileSync(reader.stagePath(stage, "lora")))
      .digest("hex");
  });
}

/** Every file of a folder with its contents. */
const contents = (of: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(of, { recursive: true, withFileTypes: true, encoding: "utf8" })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => [join(parentPath, name), readFileSync(join(parentPath, name), "base64")]),
  );

/** Finishes the stages up to one, exclusive. */
async function runStages(run: string, config: Config, until = config.stages): Promise<void> {
  const trainer = await Trainer.open(run, config);
  try {
    trainer.restore(trainer.nextStage);
    for (let stage = trainer.nextStage; stage < until; stage++) await trainer.runStage(stage);
  } finally {
    trainer.dispose();
  }
}

test("with CLIPScore and other prompts in every stage, a resumed run and single phases have the same bits", async () => {
  // Prompts in turn, four of seven a stage: which texts are new together depends on where a process begins.
  const train = ["a cat", "red apple", "dog on house", "a frog playing chess", "blue banana", "a dog", "pink pear"];
  const config = tinyConfig({
    stages: 4,
    model: { path: "models/emoji", height: null, width: null },
    rewards: [{ name: "clip-score", model: "models/emoji-clip" }],
    prompts: { train, order: "in-turn" },
    sample: { guidanceScale: 1, rootsPerStage: 4 },
  });
  const whole = newRun();
  await runStages(whole, config);
  const expected = loras(whole);
  assert.equal(new Set(expected).size, 4, "every stage learns");
  for (const stop of [1, 2]) {
    const resumed = newRun();
    await runStages(resumed, config, stop);
    await runStages(resumed, config);
    assert.deepEqual(loras(resumed), expected, `resumed at stage ${stop}`);
  }
  const phases = newRun();
  for (let stage = 0; stage < 2; stage++) {
    for (const phase of [sampleStage, selectStage, trainStage]) {
      const trainer = await Trainer.open(phases, config);
      await phase(trainer, stage);
      trainer.dispose();
    }
  }
  assert.deepEqual(loras(phases), expected.slice(0, 2));
});

test("a run that a program began with its own reward is not continued without it, nor the other way round", async () => {
  const run = newRun();
  const config = tinyConfig(brightness);
  const trainer = await Trainer.open(run, config, { reward: redness });
  await trainer.runStage(0);
  trainer.dispose();
  const before = contents(run);
  const { code, stderr } = await b2("run", run);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /^b2: Expected the reward of the program that began the run/m);
  assert.deepEqual(contents(run), before);
  const again = await Trainer.open(run, config, { reward: redness });
  assert.equal(again.nextStage, 1);
  again.dispose();

  const ofConfig = newRun();
  await runStages(ofConfig, config, 1);
  await assert.rejects(
    Trainer.open(ofConfig, config, { reward: redness }),
    /Expected the rewards of the config, .* but received a reward of the program's own/,
  );
});

test("a run goes on with other resources, and with nothing else; --set is laid over its own config", async () => {
  const run = newRun();
  await runStages(run, tinyConfig(brightness), 1);
  const first = loras(run);
  const refused = await b2(
    "run",
    run,
    "--set",
    "seed=1",
    "--set",
    "train.learningRate=0.5",
    "--set",
    "model.threads=1",
  );
  assert.equal(refused.code, 2);
  // Every key that differs, with both values, and no other: neither of the defaults, nor one that may change.
  const named = [...refused.stderr.matchAll(/^ {2}(.+ -> .+)$/gm)].map(([, line]) => line);
  assert.deepEqual(named, ["seed: 42 -> 1", "train.learningRate: 0.001 -> 0.5"]);
  assert.deepEqual(loras(run), first);

  const resources = ["model.threads=1", "sample.batchSize=2", "train.microBatch=2", "record.images=0", "eval.every=2"];
  const done = await b2("run", run, ...resources.flatMap((one) => ["--set", one]));
  assert.equal(done.code, 0, done.stderr);
  for (const change of ["model.threads: null -> 1", "sample.batchSize: 4 -> 2", "record.images: 2 -> 0"]) {
    assert.ok(done.stderr.includes(`goes on with ${change}`), done.stderr);
  }
  const reader = new RunReader(run);
  assert.deepEqual(reader.finishedStages(), [0, 1, 2]);
  assert.deepEqual(loras(run).slice(0, 1), first);
  const { sample, stages } = reader.config() as { sample: { batchSize: number }; stages: number };
  assert.deepEqual([sample.batchSize, stages], [2, 3]);
});

test("a start that came to nothing gives its folder to another config; a sampled stage does not", async () => {
  const run = newRun();
  const failing = join(temporaryFolder(), "failing.mjs");
  writeFileSync(failing, "export default () => [NaN];");
  const failed = await b2("run", run, "--config", configFile({ rewards: [failing] }));
  assert.equal(failed.code, 2, failed.stderr);
  assert.match(failed.stderr, /Expected 6 numbers, one an image, from the reward failing/);
  assert.ok(RunReader.exists(run));
  const mended = await b2("sample", run, "--config", configFile(brightness));
  assert.equal(mended.code, 0, mended.stderr);
  const other = await b2("select", run, "--config", configFile({ ...brightness, seed: 5 }));
  assert.equal(other.code, 2);
  assert.match(other.stderr, /seed: 42 -> 5/);
  assert.ok(new RunReader(run).has(0, "sampledTensors"));
});

test("folder, config, prompts and device are looked at before any model", async () => {
  const damaged = join(folder, "damaged");
  cpSync(join(fixtures, "sd1"), damaged, { recursive: true });
  for (const part of ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]) {
    writeFileSync(join(damaged, `${part}.safetensors`), "no weights");
  }
  const model = { ...tinyValues.model, path: damaged };
  const config = configFile({ ...brightness, model, eval: { ...tinyValues.eval, enabled: true } });
  const occupied = join(folder, "occupied");
  mkdirSync(occupied);
  writeFileSync(join(occupied, "notes.txt"), "mine");
  const begun = newRun();
  await runStages(begun, tinyConfig(brightness), 1);
  const cases: [args: string[], expected: RegExp][] = [
    [[occupied, "--config", config], /Expected an empty or new folder for the run/],
    [[join(occupied, "notes.txt"), "--config", config], /Expected a folder to write the run to/],
    [[begun, "--config", config, "--set", "seed=3"], /seed: 42 -> 3/],
    [[newRun(), "--config", config, "--device", "cuda:7"], /for model.device/],
    [[newRun(), "--config", config, "--set", "eval.truth=emoji"], /Expected prompts of the embedded world/],
    [[newRun(), "--config", config, "--set", "prompts.train=none.txt"], /none.txt/],
    // And then the model.
    [[newRun(), "--config", config], /damaged\/(unet|vae|text_encoder)/],
  ];
  for (const [args, expected] of cases) {
    const { code, stderr } = await b2("run", ...args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, expected);
    if (!args.join().includes("damaged") && expected.source !== cases.at(-1)![1].source) {
      assert.doesNotMatch(stderr, /safetensors/);
    }
  }
});

test("b2 generate and b2 merge need neither the reward's model nor the evaluation's", async () => {
  const absent = { rewards: [{ name: "clip-score", model: "someone/absent" }] };
  const config = configFile({ ...absent, eval: { ...tinyValues.eval, clip: "someone/absent" } });
  process.env["HF_HUB_OFFLINE"] = "1"; // no test asks the real hub
  const images = join(temporaryFolder(), "images");
  const generated = await b2("generate", "a cat", "--config", config, "--out", images);
  assert.equal(generated.code, 0, generated.stderr);
  assert.equal(readdirSync(images).length, 1);
  const lora = join(fixtures, "sd1/lora/pytorch_lora_weights.safetensors");
  const merged = join(temporaryFolder(), "merged");
  const done = await b2("merge", merged, "--lora", lora, "--config", config);
  assert.equal(done.code, 0, done.stderr);
  const run = await b2("run", newRun(), "--config", config);
  assert.equal(run.code, 2);
  assert.match(run.stderr, /someone\/absent/);
});

test("a fault of the code is no bad input: it keeps its stack, and bad input shows its own when asked", async () => {
  const faulty = join(temporaryFolder(), "faulty.mjs");
  writeFileSync(faulty, "export default () => undefined.length;");
  const fault = await b2("run", newRun(), "--config", configFile({ rewards: [faulty] }));
  assert.equal(fault.code, 1);
  assert.match(fault.stderr, /TypeError: Cannot read properties of undefined[^]*\n +at .*faulty\.mjs/);
  const broken = join(temporaryFolder(), "broken.mjs");
  writeFileSync(broken, "throw new Error('at the bottom');");
  const args = ["run", newRun(), "--config", configFile({ rewards: [broken] })];
  const plain = await b2(...args);
  assert.equal(plain.code, 2);
  assert.doesNotMatch(plain.stderr, /^ +at /m);
  const debugged = await b2(...args, "--debug");
  assert.equal(debugged.code, 2);
  assert.match(debugged.stderr, /^ +at [^]*caused by Error: at the bottom\n +at .*broken\.mjs/m);
});

test("reward and evaluation share one CLIP, and all memory comes back", async () => {
  await collectGarbage();
  const [live, bytes] = [liveTensors(), nativeBytes()];
  const clip = "models/emoji-clip";
  const config = (eval_: object): Config =>
    tinyConfig({
      rewards: [{ name: "clip-score", model: clip }],
      eval: { enabled: true, imagesPerPrompt: 2, clip: null, ...eval_ },
      sample: { guidanceScale: 1 },
      stages: 1,
    });
  const heldBy = async (eval_: object, run = false): Promise<number> => {
    const experiment = await Experiment.open(newRun(), config(eval_));
    const held = nativeBytes();
    if (run) await experiment.run();
    experiment.dispose();
    await collectGarbage();
    return held;
  };
  // A second CLIP would be over a megabyte.
  const more = (await heldBy({ clip })) - (await heldBy({}));
  assert.ok(Math.abs(more) < 10_000, `${more} bytes more with the CLIP of the reward in the evaluation`);
  await heldBy({ clip }, true);
  await collectGarbage();
  assert.deepEqual([liveTensors(), nativeBytes()], [live, bytes]);
});
