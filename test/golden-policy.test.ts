/**
 * The policy over golden vectors: the log-probs of a recorded trajectory, and the update on it, by the code that trains.
 * Where a LoRA trains on Stable Diffusion 1 or 2: the golden trajectory of SDXL has image sizes that no config gives.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { Policy, resolveConfig, updatePolicy } from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { AdamW } from "../src/optim/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { full, noGrad, stack, tensor, tidy } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  assertUpdated,
  goldenSets,
  gradientTolerance,
  outputTolerance,
  type GoldenUpdate,
} from "./support/golden.js";

for (const set of goldenSets("lora", "io_update.safetensors").filter((each) => !each.has("text_encoder_2"))) {
  describe(`Policy, golden ${set.name}`, () => {
    const settings = set.json<GoldenUpdate>("lora", "update.json");
    const trajectory = set.tensors("lora", "io_trajectory.safetensors");
    const update = set.tensors("lora", "io_update.safetensors");
    const { texts } = set.json<{ texts: string[] }>("tokenizer", "expected.json");
    const prompts = texts.slice(0, 2);
    const latents = trajectory.get("latents"); // [B, T + 1, C, H, W]
    const timesteps = trajectory.get("timesteps").toArray();
    const { optimizer } = settings;
    const [, , , height, width] = trajectory.get("latents").shape as [number, number, number, number, number];
    const imageHeight = trajectory.get("image").size(2);
    const config = resolveConfig({
      model: { path: set.folder, height: imageHeight, width: (imageHeight / height) * width },
      scheduler: { name: "ddim", eta: settings.eta },
      sample: { steps: settings.num_steps, guidanceScale: settings.guidance_scale },
      interval: { first: null, last: null },
      objective: { name: "ppo", clipRange: settings.clip_range },
      lora: { rank: settings.lora_rank, alpha: settings.lora_alpha },
      train: { epochs: 1, samplesPerUpdate: 2, microBatch: 3, maxGradNorm: settings.max_grad_norm },
    });
    const policy = Policy.forTraining(config);
    after(() => policy.dispose());

    it("computes the log-probs of the golden steps", () => {
      policy.trainable!.load(set.path("lora", "pytorch_lora_weights.safetensors"));
      assert.deepEqual(policy.timesteps, timesteps);
      assert.deepEqual(policy.latentShape, latents.shape.slice(2));
      const step = (i: number, conditioning: Parameters<Policy["predict"]>[2]) => {
        const [x, prevSample] = [latents.select(1, i), latents.select(1, i + 1)];
        const prediction = policy.predict(x, timesteps[i]!, conditioning);
        return policy.transition(x, timesteps[i]!, prediction, { prevSample }).logProb;
      };
      for (const make of ["conditioning", "samplingConditioning"] as const) {
        tidy(() =>
          noGrad(() => {
            const conditioning = policy[make](prompts);
            const logProbs = stack(
              timesteps.map((_, i) => step(i, conditioning)),
              1,
            );
            assertClose(logProbs, trajectory.get("log_probs"), outputTolerance, `${set.name} log_probs, ${make}`);
            conditioning.dispose();
          }),
        );
      }
      // Without what was learnt they are others, by far.
      const logProbs = tidy(() =>
        policy.trainable!.withBase(() => {
          const conditioning = policy.conditioning(prompts);
          return stack(
            timesteps.map((_, i) => step(i, conditioning)),
            1,
          );
        }),
      );
      assert.throws(() =>
        assertClose(logProbs, trajectory.get("log_probs"), 100 * outputTolerance, "the base model's"),
      );
      logProbs.dispose();
    });

    it("makes the golden update of the trajectory", async () => {
      const file = join(temporaryFolder(), "before.safetensors");
      const before = [...update.under("before.")].map(([key, value]) => [`unet.${key}`, value] as const);
      saveSafetensors(file, new Map(before));
      policy.trainable!.load(file);
      const { lr, betas, eps, weight_decay: weightDecay } = optimizer;
      const adam = new AdamW(policy.parameters, { lr, betas, eps, weightDecay });
      const trainSet = {
        stage: 0,
        keys: prompts.map((prompt, root) => ({ root, branch: 0, prompt })),
        timesteps,
        latents,
        logProbs: trajectory.get("log_probs"),
        advantages: update.get("advantages").toArray(),
      };
      const updates = await updatePolicy(policy, { optimizer: adam }, trainSet, config, { progress: silent });
      assert.equal(updates.length, 1);
      const { loss, gradNorm, ratioMin, ratioMax, pairs } = updates[0]!;
      assert.equal(pairs, 20);
      tidy(() => {
        const number = (value: number | null) => full([1], value!);
        const what = (name: string) => `${set.name} ${name}`;
        // Of the scale of the ten losses: their mean nearly vanishes.
        const losses = update.get("losses");
        const scale = losses.abs().amax().item();
        assert.ok(Math.abs(loss - losses.mean().item()) <= gradientTolerance * scale, what("loss"));
        const ratios = update.get("ratios").toArray();
        assertClose(number(ratioMin), tensor([Math.min(...ratios)]), gradientTolerance, what("least ratio"));
        assertClose(number(ratioMax), tensor([Math.max(...ratios)]), gradientTolerance, what("largest ratio"));
        const norm = update.get("grad_norm_before_clipping");
        assertClose(number(gradNorm), norm, gradientTolerance, what("gradient norm"));
      });
      for (const [key, expected] of update.under("after.")) {
        const grad = update.get(`clipped_grad.${key}`);
        assertUpdated(policy.parameters.get(key)!, expected, grad, optimizer, `${set.name} ${key} after the update`);
      }
      adam.dispose();
    });
  });
}
