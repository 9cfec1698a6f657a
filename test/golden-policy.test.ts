/**
 * The policy over golden vectors: the log-probs of a recorded trajectory, and the update on it, by the code that trains.
 * Where a LoRA trains on any family but SDXL, whose golden trajectory has image sizes that no config gives.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { Policy, resolveConfig, updatePolicy } from "../src/b2/index.js";
import { silent } from "../src/base/progress.js";
import { AdamW } from "../src/optim/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { full, noGrad, stack, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  assertUpdated,
  goldenModel,
  goldenSets,
  goldenTimesteps,
  gradientTolerance,
  outputTolerance,
  type GoldenPolicyUpdate,
  type GoldenSet,
} from "./support/golden.js";

/** Keeps the gradients of its last step. */
class WatchedAdamW extends AdamW {
  readonly grads = new Map<string, Tensor>();
  readonly #parameters: ReadonlyMap<string, Tensor>;

  constructor(parameters: ReadonlyMap<string, Tensor>, options: ConstructorParameters<typeof AdamW>[1]) {
    super(parameters, options);
    this.#parameters = parameters;
  }

  override step(): void {
    for (const [key, { grad }] of this.#parameters) this.grads.set(key, grad!.clone());
    super.step();
  }
}

const isXL = (set: GoldenSet): boolean => set.has("unet") && set.has("text_encoder_2");

for (const set of goldenSets("lora", "io_update.safetensors").filter((each) => !isXL(each))) {
  describe(`Policy, golden ${set.name}`, () => {
    const settings = set.json<GoldenPolicyUpdate>("lora", "update.json");
    const trajectory = set.tensors("lora", "io_trajectory.safetensors");
    const update = set.tensors("lora", "io_update.safetensors");
    const { texts } = set.json<{ texts: string[] }>("tokenizer", "expected.json");
    const prompts = texts.slice(0, 2);
    const latents = trajectory.get("latents"); // [B, T + 1, C, H, W]
    const timesteps = goldenTimesteps(set, trajectory);
    const trained = settings.trained_transitions ?? settings.num_steps;
    const { optimizer = { lr: 1e-4, betas: [0.9, 0.999], weight_decay: 0, eps: 1e-8 }, sampler } = settings;
    const [, , , height, width] = trajectory.get("latents").shape as [number, number, number, number, number];
    const imageHeight = trajectory.get("image").size(2);
    const config = resolveConfig({
      model: { ...goldenModel(set), height: imageHeight, width: (imageHeight / height) * width },
      scheduler: {
        ...(sampler === undefined ? { name: "ddim" } : { name: "flow-match", noise: sampler }),
        eta: settings.eta,
      },
      sample: { steps: settings.num_steps, guidanceScale: settings.guidance_scale },
      interval: { first: null, last: null, skipLast: settings.num_steps - trained },
      objective: { name: "ppo", clipRange: settings.clip_range },
      lora: { rank: settings.lora_rank, alpha: settings.lora_alpha },
      train: { epochs: 1, samplesPerUpdate: 2, microBatch: 3, maxGradNorm: settings.max_grad_norm ?? 1e6 },
    });
    const policy = Policy.forTraining(config);
    after(() => policy.dispose());

    /** A file of these weights that says their alpha, without which it would be the rank. */
    const fileOf = (weights: ReadonlyMap<string, Tensor>): string => {
      const layers = [...weights.keys()].flatMap((key) => /^(.*)\.lora_A\.weight$/.exec(key)?.[1] ?? []);
      const alphas = layers.map((layer) => [`${layer}.alpha`, tensor([settings.lora_alpha])] as const);
      const file = join(temporaryFolder(), "lora.safetensors");
      saveSafetensors(file, new Map([...weights, ...alphas]));
      return file;
    };

    it("computes the log-probs of the golden steps", () => {
      policy.trainable!.load(fileOf(set.tensors("lora", "pytorch_lora_weights.safetensors").under("")));
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
      const before = [...update.under("before.")].map(
        ([key, value]) => [`${policy.model.denoiserName}.${key}`, value] as const,
      );
      policy.trainable!.load(fileOf(new Map(before)));
      const { lr, betas, eps, weight_decay: weightDecay } = optimizer;
      const adam = new WatchedAdamW(policy.parameters, { lr, betas, eps, weightDecay });
      const trainSet = {
        stage: 0,
        keys: prompts.map((prompt, root) => ({ root, branch: 0, prompt })),
        timesteps: timesteps.slice(0, trained),
        latents: latents.narrow(1, 0, trained + 1),
        logProbs: trajectory.get("log_probs").narrow(1, 0, trained),
        advantages: update.get("advantages").toArray(),
      };
      const updates = await updatePolicy(policy, { optimizer: adam }, trainSet, config, { progress: silent });
      assert.equal(updates.length, 1);
      const { loss, gradNorm, ratioMin, ratioMax, pairs } = updates[0]!;
      assert.equal(pairs, 2 * trained);
      tidy(() => {
        const number = (value: number | null) => full([1], value!);
        const what = (name: string) => `${set.name} ${name}`;
        // Of the scale of the losses of the steps: their mean nearly vanishes.
        const losses = update.get("losses");
        const scale = losses.abs().amax().item();
        assert.ok(Math.abs(loss - losses.mean().item()) <= gradientTolerance * scale, what("loss"));
        const ratios = update.get("ratios").toArray();
        assertClose(number(ratioMin), tensor([Math.min(...ratios)]), gradientTolerance, what("least ratio"));
        assertClose(number(ratioMax), tensor([Math.max(...ratios)]), gradientTolerance, what("largest ratio"));
        const norm = update.find("grad_norm_before_clipping");
        if (norm !== undefined) assertClose(number(gradNorm), norm, gradientTolerance, what("gradient norm"));
      });
      const grads = update.under(settings.max_grad_norm === undefined ? "grad." : "clipped_grad.");
      assert.ok(grads.size > 0);
      for (const [key, expected] of grads) {
        assertClose(adam.grads.get(key)!, expected, gradientTolerance, `${set.name} gradient of ${key}`);
      }
      for (const [key, expected] of update.under("after.")) {
        const grad = update.get(`clipped_grad.${key}`);
        assertUpdated(policy.parameters.get(key)!, expected, grad, optimizer, `${set.name} ${key} after the update`);
      }
      adam.dispose();
    });
  });
}
