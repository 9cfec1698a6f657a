/**
 * A model on an accelerator beside the same model on the processor: latents, noise and log-probs stay on the processor,
 * so that a trajectory is the same up to rounding. Runs on every kind of accelerator that is there, and skips the rest;
 * that nothing of a training step is made on the processor by mistake is shown on libtorch's meta device, without one.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { mock, test } from "node:test";
import { disposeRecord, Policy, sampleBranches, Trainer, updatePolicy, type BranchBatch } from "../src/b2/index.js";
import { checkComputes } from "../src/b2/policy/device.js";
import { silent } from "../src/base/progress.js";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel } from "../src/models/index.js";
import { Conv2d, GroupNorm, LayerNorm } from "../src/nn/index.js";
import { AdamW } from "../src/optim/index.js";
import { Clip, RewardResources } from "../src/rewards/index.js";
import { DDIMScheduler } from "../src/schedulers/index.js";
import {
  cat,
  deviceCount,
  deviceMemory,
  Generator,
  liveTensors,
  noGrad,
  profileOperators,
  rand,
  resetPeakDeviceMemory,
  synchronize,
  tidy,
  torchVersion,
  zeros,
  type Device,
  type DType,
  type OperatorProfile,
  type Tensor,
} from "../src/torch/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { collectGarbage, tinyConfig } from "./support/tiny.js";

const prompts = ["a cat", "red apple"];

/** A CLIP with its tokenizer. */
function clipFolder(): string {
  const folder = temporaryFolder();
  for (const part of ["clip", "tokenizer"]) cpSync(join(fixtures, "sd1", part), folder, { recursive: true });
  return folder;
}

const context = { progress: silent };

/** Samples, decodes and trains for one update; everything as tensors on the processor. */
async function train(
  device: Device,
  form: object,
): Promise<{ batch: BranchBatch; images: Tensor; weights: Tensor[]; ratios: number[] }> {
  const config = tinyConfig({ model: { device }, train: { epochs: 1, samplesPerUpdate: 100 } }, form);
  const policy = Policy.forTraining(config);
  const batch = await sampleBranches(policy, { stage: 0, prompts, interval: 3 }, config, context);
  assert.equal(batch.latents.device, "cpu");
  const images = tidy(() => noGrad(() => policy.decode(batch.latents.select(1, -1)).to({ device: "cpu" })));
  const optimizer = new AdamW(policy.parameters, { lr: 1e-3 });
  const trainSet = { ...batch, advantages: batch.keys.map((_, i) => (i % 2 === 0 ? 1 : -1)) };
  const [update] = await updatePolicy(policy, { optimizer }, trainSet, config, context);
  const weights = tidy(() => [...policy.parameters.values()].map((p) => p.detach().clone().to({ device: "cpu" })));
  optimizer.dispose();
  policy.dispose();
  return { batch, images, weights, ratios: [update!.ratioMin!, update!.ratioMax!] };
}

const family = (name: string): object => ({ model: { path: join(fixtures, name) } });
const difference = (a: Tensor, b: Tensor): number => tidy(() => a.sub(b).abs().amax().item());

for (const device of ["cuda", "mps"] as const) {
  const skip = deviceCount(device) > 0 ? false : `no ${device} here`;

  for (const [name, form] of Object.entries({
    "sd1 with a LoRA": family("sd1"),
    "sdxl with a LoRA": family("sdxl"),
    "sd3 with a LoRA": { model: { path: join(fixtures, "sd3"), offload: true }, interval: { skipLast: 1 } },
    "all of sd1's UNet": { ...family("sd1"), train: { parameters: "full" } },
  })) {
    test(`sampling, decoding and an update of ${name} on ${device} are those of the processor`, { skip }, async () => {
      const [here, there] = [await train("cpu", form), await train(device, form)];
      assert.ok(difference(here.batch.latents, there.batch.latents) < 1e-3);
      assert.ok(difference(here.batch.logProbs!, there.batch.logProbs!) < 1e-2);
      assert.ok(difference(here.images, there.images) < 1e-2);
      here.weights.forEach((weight, i) => assert.ok(difference(weight, there.weights[i]!) < 1e-2));
      [here, there].forEach(({ batch, images, weights }) => {
        disposeRecord(batch);
        [images, ...weights].forEach((tensor) => tensor.dispose());
      });
    });
  }

  for (const dtype of ["bfloat16", "float16"] as const) {
    test(`${dtype} on ${device}: the first ratio is 1, and pictures are near those of float32`, { skip }, async () => {
      const [whole, half] = [await train(device, family("sd1")), await train(device, { model: { dtype } })];
      for (const ratio of half.ratios) assert.ok(Math.abs(ratio - 1) < 1e-6);
      assert.ok(difference(whole.images, half.images) < 0.2);
      [whole, half].forEach(({ batch, images, weights }) => {
        disposeRecord(batch);
        [images, ...weights].forEach((tensor) => tensor.dispose());
      });
    });
  }

  test(`the memory of ${device} is counted: now, and the most since the last reset`, { skip }, async () => {
    await collectGarbage();
    zeros([1], { device }).dispose();
    const before = deviceMemory(device);
    if (before === undefined) return; // libtorch before 2.9
    const megabytes = (n: number): Tensor => zeros([n * 2 ** 18], { device });
    resetPeakDeviceMemory(device);
    const kept = megabytes(8);
    megabytes(32).dispose();
    synchronize(device);
    const after = deviceMemory(device)!;
    assert.equal(after.allocated - before.allocated, 8 * 2 ** 20);
    assert.equal(after.peak - before.allocated, 40 * 2 ** 20);
    resetPeakDeviceMemory(device);
    assert.equal(deviceMemory(device)!.peak, after.allocated);
    kept.dispose();
    assert.equal(deviceMemory(device)!.allocated, before.allocated);
  });

  test(`a profile that waits for ${device} counts the same operators, and its times add up`, { skip }, () => {
    const a = zeros([2048, 2048], { device });
    const work = (): void => tidy(() => void a.matmul(a).matmul(a));
    work();
    const [queued, waited] = [profileOperators(work), profileOperators(work, { waitFor: device })];
    const calls = (profile: OperatorProfile[]) => profile.map(({ name, calls }) => [name, calls]);
    assert.deepEqual(calls(waited), calls(queued));
    a.dispose();
  });

  test(`a CLIP moves to ${device} and back, and gives the memory back at once`, { skip }, async () => {
    await collectGarbage();
    zeros([1], { device }).dispose();
    const path = clipFolder();
    const images = rand([2, 3, 40, 40], { generator: new Generator(0) });
    const features = (clip: Clip): Tensor =>
      tidy(() => cat([clip.imageFeatures(images), clip.textFeatures(prompts)]).to({ device: "cpu" }));
    const clip = Clip.fromPretrained(path);
    const here = features(clip);
    clip.moveTo(device);
    const there = features(clip);
    assert.ok(difference(here, there) < 1e-4);
    clip.moveTo("cpu");
    const before = deviceMemory(device)?.allocated; // libtorch's own workspace is there since the first product
    clip.moveTo(device);
    if (before !== undefined) assert.ok(deviceMemory(device)!.allocated > before);
    clip.moveTo("cpu");
    assert.equal(deviceMemory(device)?.allocated, before);
    const back = features(clip);
    assert.ok(difference(here, back) < 1e-4); // the texts' features were computed there

    const resources = new RewardResources(device);
    const offloaded = resources.clip(path, { device: null, dtype: "float32", offload: true });
    assert.equal(offloaded.device, "cpu");
    await resources.using(() => {
      assert.equal(offloaded.device, device);
      assert.ok(
        difference(
          there,
          tidy(() => features(offloaded)),
        ) < 1e-4,
      );
      return Promise.resolve();
    });
    assert.equal(deviceMemory(device)?.allocated, before);
    resources.dispose();
    clip.dispose();
    [images, here, there, back].forEach((tensor) => tensor.dispose());
  });

  test(`a run on ${device} resumes, and gives its memory back`, { skip }, async () => {
    await collectGarbage();
    const live = liveTensors();
    const folder = join(temporaryFolder(), "run");
    const config = tinyConfig({ model: { device }, rewards: ["brightness"] });
    for (const stage of [0, 1]) {
      const trainer = await Trainer.open(folder, config);
      assert.equal(trainer.nextStage, stage);
      trainer.restore(stage);
      await trainer.runStage(stage);
      trainer.dispose();
    }
    await collectGarbage();
    assert.equal(liveTensors(), live);
  });
}

test("a device on which nothing computes is told from a dtype that it does not compute in", () => {
  // Nothing can be read off the meta device: it stands for a card that is there and does not work.
  const broken = (): void => checkComputes("meta" as Device, "float32");
  assert.throws(
    broken,
    /^InputError: Expected a model.device that libtorch \S+ computes on but received "meta": aten::/,
  );
  assert.throws(
    () => checkComputes("cpu", "complex64" as DType),
    /Expected a model.computeDtype that libtorch \S+ computes in on cpu \(float32, bfloat16/,
  );
});

test("float32 is float32 on a GPU too, unless the environment says otherwise", () => {
  const module = JSON.stringify(new URL("../src/torch/index.js", import.meta.url).href);
  const script = `const { torchVersion } = await import(${module}); torchVersion(); console.log(process.env.NVIDIA_TF32_OVERRIDE)`;
  const told = (more: object): string =>
    execFileSync(process.execPath, ["--input-type=module", "-e", script], {
      encoding: "utf8",
      env: { ...process.env, NVIDIA_TF32_OVERRIDE: undefined, ...more },
    });
  assert.equal(told({}), "0\n");
  assert.equal(told({ NVIDIA_TF32_OVERRIDE: "1" }), "1\n");
});

/**
 * On the meta device tensors have a shape and a device but no numbers, and an operator with one tensor there and one on
 * the processor raises. Convolutions, norms and libtorch 2's own attention have no meta kernel in C++; the first two only
 * touch their input and their own parameters, and stand aside here for operators that do the same.
 */
test(
  "a UNet with a LoRA makes nothing on the processor, forward and backward; nor does the scheduler",
  { skip: torchVersion().startsWith("1.") ? false : "libtorch 2's attention does not run on the meta device" },
  () => {
    const onMeta = (...tensors: Tensor[]): void => tensors.forEach((t) => assert.equal(t.device, "meta"));
    mock.method(Conv2d.prototype, "forward", function (this: Conv2d, x: Tensor) {
      onMeta(x, this.weight);
      const [, , height, width] = x.shape as [number, number, number, number];
      const stride = this.path.includes("downsamplers") ? 2 : 1;
      const some = x
        .sum({ dim: 1, keepdim: true })
        .narrow(2, 0, height / stride)
        .narrow(3, 0, width / stride);
      return some.mul(this.weight.sum({ dim: [1, 2, 3] }).view([1, -1, 1, 1]));
    });
    mock.method(GroupNorm.prototype, "forward", function (this: GroupNorm, x: Tensor) {
      onMeta(x, this.weight);
      return x.mul(this.weight.view([1, -1, 1, 1]));
    });
    mock.method(LayerNorm.prototype, "forward", function (this: LayerNorm, x: Tensor) {
      onMeta(x, this.weight);
      return x.mul(this.weight);
    });
    try {
      for (const name of ["sd1", "sd2", "sdxl"]) {
        tidy(() => {
          const device = "meta" as Device; // not one that the library offers
          const read = (part: string): Record<string, number | null> =>
            JSON.parse(readFileSync(join(fixtures, name, part), "utf8")) as Record<string, number | null>;
          const config = read("unet/config.json");
          const generator = new Generator(0);
          const unet = UNet2DConditionModel.fromConfig(config, { generator, device });
          const adapter = LoraAdapter.inject(unet, { generator });
          const latents = zeros([2, 4, 8, 8], { device });
          const text = zeros([2, 77, config["cross_attention_dim"]!], { device });
          const pooled =
            (config["projection_class_embeddings_input_dim"] ?? 0) - 6 * (config["addition_time_embed_dim"] ?? 0);
          const added =
            name === "sdxl"
              ? { textEmbeds: zeros([2, pooled], { device }), timeIds: zeros([2, 6], { device }) }
              : undefined;
          const modelOutput = unet.forward(latents, [10, 20], text, { added });
          const scheduler = DDIMScheduler.fromConfig(read("scheduler/scheduler_config.json"));
          const transition = { modelOutput, timestep: [10, 20], sample: latents, numInferenceSteps: 20 };
          const { logProb } = scheduler.step({ ...transition, prevSample: latents });
          onMeta(modelOutput, logProb);
          logProb.mean().backward();
          for (const { grad } of adapter.parameters.values()) {
            assert.ok(grad !== null);
            onMeta(grad);
          }
          adapter.dispose();
          unet.dispose();
        });
      }
    } finally {
      mock.restoreAll();
    }
  },
);
