/**
 * A model on an accelerator beside the same model on the processor: latents, noise and log-probs stay on the processor,
 * so that a trajectory is the same up to rounding. Runs on every kind of accelerator that is there, and skips the rest.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type BranchBatch, disposeRecord, Policy, sampleBranches, silent, updatePolicy } from "../src/b2/index.js";
import { AdamW } from "../src/optim/index.js";
import { type Device, noGrad, type Tensor, tidy, zeros } from "../src/torch/index.js";
import { tinyConfig } from "./support/tiny.js";

function isThere(device: Device): boolean {
  try {
    zeros([1], { device }).dispose();
    return true;
  } catch {
    return false;
  }
}

const prompts = ["a cat", "red apple"];
const surroundings = { progress: silent };

/** Samples, decodes and trains for one update; everything as tensors on the processor. */
async function train(device: Device): Promise<{ batch: BranchBatch; images: Tensor; weights: Tensor[] }> {
  const config = tinyConfig({ model: { device }, train: { epochs: 1, samplesPerUpdate: 100 } });
  const policy = Policy.load(config);
  const batch = await sampleBranches(policy, { stage: 0, prompts, interval: 3 }, config, surroundings);
  assert.equal(batch.latents.device, "cpu");
  const images = tidy(() => noGrad(() => policy.decode(batch.latents.select(1, -1)).to({ device: "cpu" })));
  const optimizer = new AdamW(policy.parameters, { lr: 1e-3 });
  const trainSet = { ...batch, advantages: batch.keys.map((_, i) => (i % 2 === 0 ? 1 : -1)) };
  const [update] = await updatePolicy(policy, optimizer, trainSet, config, surroundings);
  assert.ok(Math.abs(update!["ratioMax"]! - 1) < 1e-5 && Math.abs(update!["ratioMin"]! - 1) < 1e-5);
  const weights = tidy(() => [...policy.parameters.values()].map((p) => p.detach().clone().to({ device: "cpu" })));
  optimizer.dispose();
  policy.dispose();
  return { batch, images, weights };
}

for (const device of ["cuda", "mps"] as const) {
  test(
    `sampling, decoding and an update on ${device} are those of the processor`,
    {
      skip: isThere(device) ? false : `no ${device} here`,
    },
    async () => {
      const [here, there] = [await train("cpu"), await train(device)];
      const difference = (a: Tensor, b: Tensor): number => tidy(() => a.sub(b).abs().amax().item());
      assert.ok(difference(here.batch.latents, there.batch.latents) < 1e-3);
      assert.ok(difference(here.batch.logProbs, there.batch.logProbs) < 1e-2);
      assert.ok(difference(here.images, there.images) < 1e-2);
      here.weights.forEach((weight, i) => assert.ok(difference(weight, there.weights[i]!) < 1e-2));
      [here, there].forEach(({ batch, images, weights }) => {
        disposeRecord(batch);
        [images, ...weights].forEach((tensor) => tensor.dispose());
      });
    },
  );
}
