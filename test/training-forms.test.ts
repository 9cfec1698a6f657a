/**
 * What training must hold to in every form: each family, LoRA and full fine-tuning, each dtype. Whole stages, on the
 * narrow models of the golden vectors.
 */
import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mock, test } from "node:test";
import { disposeRecord, Policy, sampleBranches, Trainer, updatePolicy, type Config } from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { AdamW, GradScaler } from "../src/optim/index.js";
import { StableDiffusionPipeline, type TextConditioning } from "../src/pipeline/index.js";
import { RunReader } from "../src/runs/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { conv2d, isGradEnabled, liveTensors, noGrad, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { b2, warmB2 } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { collectGarbage, tinyConfig, tinyValues } from "./support/tiny.js";

const brightness = ["brightness"];
const familyOf = (family: string): object => ({ path: join(fixtures, family) });

/** sd1 as a v-prediction model. */
function vPrediction(): object {
  const path = join(temporaryFolder(), "v");
  cpSync(join(fixtures, "sd1"), path, { recursive: true });
  const file = join(path, "scheduler/scheduler_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as object;
  writeFileSync(file, JSON.stringify({ ...config, prediction_type: "v_prediction" }));
  return { path };
}

/** Stages until one is interrupted (0-based), or all; the run's folder. */
async function train(config: Config, folder: string, until = config.stages): Promise<RunReader> {
  const trainer = await Trainer.open(folder, config);
  trainer.restore(trainer.nextStage);
  for (let stage = trainer.nextStage; stage < until; stage++) await trainer.runStage(stage);
  trainer.dispose();
  return new RunReader(folder);
}

/** Bytes of all weights and optimiser states that a run has kept, and its numbers but for seconds and memory. */
function contents(run: RunReader): unknown {
  const bytes = (file: string): string | undefined =>
    existsSync(file) ? readFileSync(file).toString("base64") : undefined;
  return run.finishedStages().map((stage) => ({
    updates: run.updates(stage),
    samples: run.samples(stage),
    lora: bytes(run.stagePath(stage, "lora")),
    optimizer: bytes(run.stagePath(stage, "optimizer")),
    unet: bytes(join(run.stagePath(stage, "denoiser"), "diffusion_pytorch_model.safetensors")),
  }));
}

/** Stable Diffusion 3 with short texts, and without the last step of CPS, which has no density. */
const sd3 = {
  model: { ...familyOf("sd3"), options: { maxSequenceLength: 8 } },
  interval: { first: 3, last: 4, skipLast: 1 },
};

const forms = {
  "sd1, LoRA": { model: familyOf("sd1") },
  "sd2, LoRA": { model: familyOf("sd2") },
  "sdxl, LoRA": { model: familyOf("sdxl") },
  "v-prediction, LoRA": { model: vPrediction() },
  "sd1, all of the UNet": { model: familyOf("sd1"), train: { parameters: "full" } },
  "sdxl, all of the UNet, checkpointed, 8-bit moments": {
    model: familyOf("sdxl"),
    train: { parameters: "full", gradientCheckpointing: true, use8bitAdam: true },
  },
  "sd3, LoRA": sd3,
  "sd3, all of the transformer, checkpointed": {
    ...sd3,
    train: { parameters: "full", gradientCheckpointing: true },
  },
  "sd3, bfloat16": { ...sd3, model: { ...sd3.model, dtype: "bfloat16", computeDtype: "bfloat16" } },
  "sdxl, bfloat16": { model: { ...familyOf("sdxl"), dtype: "bfloat16", computeDtype: "bfloat16" } },
  "sdxl, float16 in float32": { model: { ...familyOf("sdxl"), dtype: "float16", computeDtype: "float32" } },
};

for (const [name, form] of Object.entries(forms)) {
  test(`${name}: an interrupted run is the uninterrupted one to the bit, learns, and gives its memory back`, async () => {
    // What decides further stages is compared as well: weights, and the state of the optimiser.
    const config = tinyConfig({ rewards: brightness, record: { optimizers: 2 } }, form);
    await collectGarbage();
    const live = liveTensors();
    const whole = await train(config, join(temporaryFolder(), "whole"));
    await collectGarbage();
    assert.equal(liveTensors(), live);
    const folder = join(temporaryFolder(), "resumed");
    await train(config, folder, 1);
    assert.deepEqual(contents(await train(config, folder)), contents(whole));

    const metrics = whole.metrics();
    assert.equal(metrics.length, 2);
    for (const { updates, skipped, firstRatioMin, firstRatioMax } of metrics) {
      assert.ok(updates > 0 && skipped === 0);
      // In float32 the log-probs are the sampler's, whose batches are others.
      const tolerance = config.model.computeDtype === "bfloat16" ? 0 : 1e-3;
      assert.ok(Math.abs(firstRatioMin! - 1) <= tolerance && Math.abs(firstRatioMax! - 1) <= tolerance);
    }
    assert.ok(metrics.some(({ ratioMin, ratioMax }) => ratioMax! - ratioMin! > 1e-4));
  });
}

type Held = "float32" | "bfloat16" | "float16";

/** What weights are held in, and what is computed in. */
const precisions: readonly (readonly [held: Held, computed: Held])[] = [
  ["float32", "float32"],
  ["bfloat16", "bfloat16"],
  ["float16", "float16"],
  ["bfloat16", "float32"],
  ["float16", "float32"],
  ["float32", "bfloat16"],
];

/** Why a dtype cannot be tested here: libtorch 1.13 has no float16 convolution on processors. */
function skipOf(dtype: Held): string | false {
  try {
    tidy(() => void conv2d(zeros([1, 1, 3, 3], { dtype }), zeros([1, 1, 3, 3], { dtype })));
    return false;
  } catch {
    return `this libtorch does not compute in ${dtype} on processors`;
  }
}

const families = { sd1: familyOf("sd1"), sdxl: familyOf("sdxl") };
/** Too large for a test in half precision, which many processors are slow in. */
const embedded = { path: "models/emoji", height: null, width: null };

for (const [dtype, computed] of precisions) {
  const name = dtype === computed ? dtype : `${dtype} in ${computed}`;
  const skip = skipOf(computed);

  test(`${name}: the first ratio is 1 whatever the batches, in every stage`, { skip }, async () => {
    const models = {
      ...families,
      ...(dtype === computed && { sd3: sd3.model }),
      ...(computed === "float32" && { embedded }),
    };
    for (const [family, model] of Object.entries(models)) {
      const config = tinyConfig({
        model: { ...model, dtype, computeDtype: computed },
        train: { oldLogProbs: computed === "float32" ? "recomputed" : null, microBatch: 4, learningRate: 1e-2 },
      });
      const policy = Policy.forTraining(config);
      const optimizer = new AdamW(policy.parameters, { lr: 1e-2 });
      for (const stage of [0, 1]) {
        const prompts = ["a cat", "red apple", "a cat"];
        const batch = await sampleBranches(policy, { stage, prompts, interval: 3 }, config, { progress: silent });
        const trainSet = { ...batch, advantages: batch.keys.map((_, i) => (i % 2 ? 1 : -1)) };
        // Of two samples in the first stage, so that later updates meet pairs in other company; then of all.
        const train = { ...config.train, samplesPerUpdate: stage === 0 ? 2 : 100 };
        const learner = stage === 0 ? optimizer : new AdamW(new Map());
        const context = { progress: silent };
        const [first, ...more] = await updatePolicy(
          policy,
          { optimizer: learner },
          trainSet,
          { ...config, train },
          context,
        );
        for (const ratio of [first!.ratioMin!, first!.ratioMax!]) {
          assert.ok(Math.abs(ratio - 1) < 1e-6, `${family}, stage ${stage}: ${ratio}`);
        }
        if (stage === 0) assert.ok(more.some((update) => Math.abs(update.ratioMax! - 1) > 1e-6));
        for (const parameter of policy.parameters.values()) parameter.grad = null;
        disposeRecord(batch);
      }
      optimizer.dispose();
      policy.dispose();
    }
  });

  test(
    `${name}: frozen weights are held in the first, all that is learnt and recorded in float32`,
    { skip },
    async () => {
      const trainer = await Trainer.open(
        join(temporaryFolder(), "run"),
        tinyConfig({ rewards: brightness, model: { ...familyOf("sdxl"), dtype, computeDtype: computed } }),
      );
      const { policy, run } = trainer;
      const all = (tensors: Iterable<Tensor>): string[] => [...new Set([...tensors].map((t) => t.dtype))];
      const pipeline = policy.model as StableDiffusionPipeline;
      assert.deepEqual(all(pipeline.unet.parameters().values()), [dtype]);
      assert.deepEqual(all(pipeline.textEncoder.parameters().values()), [dtype]);
      assert.deepEqual(all(pipeline.vae.parameters().values()), [dtype]);
      assert.deepEqual(all(policy.parameters.values()), ["float32"]);

      const batch = await trainer.sample(0);
      assert.deepEqual(all([batch.latents, batch.logProbs!]), ["float32"]);
      tidy(() =>
        noGrad(() => {
          const x = batch.latents.select(1, 0);
          const conditioning = policy.conditioning(batch.keys.map(({ prompt }) => prompt)) as TextConditioning;
          assert.equal((conditioning.text as Tensor).dtype, computed);
          const [timestep] = batch.timesteps as [number];
          const predicted = policy.predict(x, timestep, conditioning);
          const { mean, logProb, prevSample } = policy.transition(x, timestep, predicted, { noise: x });
          assert.deepEqual(all([mean, logProb, prevSample]), ["float32"]);
        }),
      );
      disposeRecord(batch);
      await trainer.runStage(0);
      tidy(() => {
        const state = loadSafetensors(run.stagePath(0, "optimizer"));
        const moments = [...state].filter(([key]) => key.includes(".exp_avg"));
        assert.ok(moments.length > 0);
        assert.deepEqual(all(moments.map(([, moment]) => moment)), ["float32"]);
        assert.equal(state.has("grad_scaler.scale"), computed === "float16");
        assert.deepEqual(all(loadSafetensors(run.stagePath(0, "lora")).values()), ["float32"]);
      });
      trainer.dispose();
    },
  );
}

test("old log-probs are computed again as the update computes: recording, which some devices have other kernels for", async () => {
  for (const gradientCheckpointing of [false, true]) {
    const config = tinyConfig({
      train: { oldLogProbs: "recomputed", epochs: 1, samplesPerUpdate: 100, gradientCheckpointing },
    });
    const policy = Policy.forTraining(config);
    const batch = await sampleBranches(policy, { stage: 0, prompts: ["a cat"], interval: 3 }, config, {
      progress: silent,
    });
    const trainSet = { ...batch, advantages: [1, -1] };
    await collectGarbage();
    const live = liveTensors();
    const transition = mock.method(policy, "transition");
    const recorded: boolean[] = [];
    transition.mock.mockImplementation((...inputs: Parameters<Policy["transition"]>) => {
      recorded.push(isGradEnabled());
      return Policy.prototype.transition.apply(policy, inputs);
    });
    await updatePolicy(policy, { optimizer: new AdamW(new Map()) }, trainSet, config, { progress: silent });
    assert.deepEqual(recorded, [true, true, true, true]); // two micro-batches, before the update and in it
    for (const parameter of policy.parameters.values()) parameter.grad = null;
    await collectGarbage();
    assert.equal(liveTensors(), live);
    disposeRecord(batch);
    policy.dispose();
  }
});

test(
  "float16: gradients that would vanish come through with the loss scale, and overflow skips an update",
  {
    skip: skipOf("float16"),
  },
  async () => {
    const gradNorms = async (dtype: Held, scaler: GradScaler, share: number): Promise<number[]> => {
      const config = tinyConfig({
        model: { dtype, computeDtype: dtype },
        train: { epochs: 1, samplesPerUpdate: 100 },
      });
      const policy = Policy.forTraining(config);
      const batch = await sampleBranches(policy, { stage: 0, prompts: ["a cat"], interval: 3 }, config, {
        progress: silent,
      });
      const trainSet = { ...batch, advantages: batch.keys.map((_, i) => (i % 2 ? share : -share)) };
      const norms: number[] = [];
      for (let i = 0; i < 3; i++) {
        const [update] = await updatePolicy(policy, { optimizer: new AdamW(new Map()), scaler }, trainSet, config, {
          progress: silent,
        });
        norms.push(update!.gradNorm);
        for (const parameter of policy.parameters.values()) parameter.grad = null;
      }
      disposeRecord(batch);
      policy.dispose();
      return norms;
    };
    // As small as with 16,384 latent dimensions and 2,560 pairs an update instead of 64 and 6.
    const small = 1e-5;
    const none = new GradScaler({ enabled: false });
    const [right] = await gradNorms("float32", none, small);
    const [lost] = await gradNorms("float16", none, small);
    const [scaled] = await gradNorms("float16", new GradScaler(), small);
    assert.ok(Math.abs(lost! / right! - 1) > 0.2, `without a scale: ${lost} for ${right}`);
    assert.ok(Math.abs(scaled! / right! - 1) < 0.02, `with a scale: ${scaled} for ${right}`);

    const scaler = new GradScaler({ initScale: 2 ** 40 });
    const [overflowed] = await gradNorms("float16", scaler, 1);
    assert.ok(!Number.isFinite(overflowed!));
    assert.equal(scaler.scale, 2 ** 37);
  },
);

test("the gradient of full fine-tuning is that of the objective, by differences", async () => {
  const config = tinyConfig({ train: { parameters: "full", epochs: 1, samplesPerUpdate: 100, maxGradNorm: 1e9 } });
  const policy = Policy.forTraining(config);
  const batch = await sampleBranches(policy, { stage: 0, prompts: ["a cat"], interval: 3 }, config, {
    progress: silent,
  });
  const trainSet = { ...batch, advantages: [1, -0.5] };
  const loss = async (look: () => void = () => undefined): Promise<number> => {
    const optimizer = {
      step: look,
      zeroGrad: () => policy.parameters.forEach((p) => (p.grad = null)),
    } as unknown as AdamW;
    const [update] = await updatePolicy(policy, { optimizer }, trainSet, config, { progress: silent });
    return update!.loss;
  };
  for (const name of [
    "conv_in.weight",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight",
    "time_embedding.linear_1.bias",
  ]) {
    const parameter = policy.parameters.get(name)!;
    let slope = 0;
    let size = 0;
    let direction: Tensor | undefined;
    await loss(() => {
      const { grad } = parameter;
      slope = grad!.norm().item();
      size = 3e-5 / slope; // far above the rounding of the loss, far below the clip range
      direction = grad!.div(slope).mul(size);
    });
    const moved = async (sign: number): Promise<number> => {
      noGrad(() => parameter.add_(direction!.mul(sign)));
      return loss();
    };
    const up = await moved(1);
    const down = await moved(-2);
    await moved(1);
    assert.ok(slope > 0);
    assert.ok(
      Math.abs((up - down) / (2 * size) / slope - 1) < 0.05,
      `${name}: ${(up - down) / (2 * size)} for ${slope}`,
    );
  }
  disposeRecord(batch);
  policy.dispose();
});

test("b2 run with train.parameters=full leaves a model that b2 generate, b2 eval and the stage commands take", async () => {
  const folder = join(temporaryFolder(), "full");
  const config = join(temporaryFolder(), "config.json");
  const values = {
    ...tinyValues,
    stages: 3,
    rewards: brightness,
    record: { images: 0, optimizers: 2 },
    train: { ...tinyValues.train, parameters: "full" },
    eval: { ...tinyValues.eval, enabled: true, sheet: 2 },
  };
  writeFileSync(config, JSON.stringify(values));
  const done = await b2("run", folder, "--config", config, "--device", "cpu");
  assert.equal(done.code, 0, done.stderr);
  const run = new RunReader(folder);
  assert.deepEqual(
    [0, 1, 2].map((stage) => run.has(stage, "denoiser")),
    [false, true, true],
  );
  assert.ok(!run.has(2, "lora"));

  // The folder is whole, and is the last stage's weights.
  const pipeline = StableDiffusionPipeline.fromPretrained(join(folder, "model"));
  tidy(() => {
    const kept = loadSafetensors(join(run.stagePath(2, "denoiser"), "diffusion_pytorch_model.safetensors"));
    const base = loadSafetensors(join(fixtures, "sd1/unet/diffusion_pytorch_model.safetensors"));
    const saved = pipeline.unet.parameters();
    assert.ok([...saved].every(([name, weight]) => weight.equal(kept.get(name)!)));
    assert.ok(
      [...saved].every(([name, weight]) => !weight.equal(base.get(name)!)),
      "every weight learns",
    );
  });
  pipeline.dispose();

  // The last stage again, in three processes, comes to the same model; one before it is refused.
  const model = join(folder, "model/unet/diffusion_pytorch_model.safetensors");
  const before = readFileSync(model);
  for (const command of ["sample", "select", "train"]) {
    const { code, stderr } = await b2(command, folder, "--stage", "2");
    assert.equal(code, 0, stderr);
  }
  assert.ok(before.equals(readFileSync(model)));
  const refused = await warmB2("sample", folder, "--stage", "1");
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /Expected the last stage of .* received stage 1, after which 1 is finished/);

  const evaluated = await warmB2("eval", "--lora", folder, "--compare", "--out", join(folder, "eval.json"));
  assert.equal(evaluated.code, 0, evaluated.stderr);
  const tables = JSON.parse(readFileSync(join(folder, "eval.json"), "utf8")) as Record<string, unknown>;
  const recorded = (name: string): unknown => JSON.parse(readFileSync(join(folder, `eval/${name}.json`), "utf8"));
  assert.deepEqual(tables["base"], recorded("before"));
  assert.deepEqual(tables["LoRA"], recorded("after"));
  assert.notDeepEqual(recorded("before"), recorded("after"));

  const pictures = async (...options: string[]): Promise<Buffer> => {
    const out = join(temporaryFolder(), "pictures");
    const made = await warmB2("generate", "a cat", "--out", out, ...options);
    assert.equal(made.code, 0, made.stderr);
    return readFileSync(join(out, "00-0-a-cat.png"));
  };
  const sizes = ["--config", config];
  const [ofRun, ofModel] = [
    await pictures("--lora", folder),
    await pictures(...sizes, "--set", `model.path=${join(folder, "model")}`),
  ];
  assert.ok(ofRun.equals(ofModel));
  assert.ok(!ofRun.equals(await pictures(...sizes)));
});

test("what cannot be computed is refused before any work, with a sentence", async () => {
  const folder = join(temporaryFolder(), "run");
  const cases: [options: string[], message: RegExp][] = [
    [
      ["--device", "cuda:7"],
      /Expected a CUDA device for model.device "cuda:7" .*b2 setup --libtorch cu126|Expected cuda:0.*received "cuda:7"/,
    ],
    [["--device", "gpu"], /Expected cpu, mps, cuda or cuda:<index> for model.device but received "gpu"/],
    [["--dtype", "half"], /for model.dtype but received "half"/],
    [["--set", "model.height=500"], /Expected a multiple of 8 for model.height but received 500/],
    [
      ["--set", "train.parameters=full", "--set", "lora.rank=4", "--dtype", "bfloat16"],
      /Expected model.dtype "float32" for train.parameters "full"/,
    ],
    [
      ["--set", "train.parameters=full"],
      /Expected lora.rank 4, its default, for train.parameters "full".* received 16/,
    ],
  ];
  if (skipOf("float16") !== false)
    cases.push([
      ["--set", "model.computeDtype=float16"],
      /Expected a model.computeDtype that libtorch .* computes in on cpu/,
    ]);
  for (const [options, message] of cases) {
    const { code, stderr } = await warmB2("sample", folder, "--preset", "demo", ...options);
    assert.equal(code, 2, stderr);
    assert.match(stderr, message);
    assert.ok(!existsSync(folder));
  }
});
