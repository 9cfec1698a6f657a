/**
 * Stable Diffusion 3's transformer, LoRA, scheduler and VAE together, against golden vectors: a guided CPS trajectory and
 * its pictures, a clipped policy-gradient update, and an update of the forward process.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { forwardLoss, ppoLoss } from "../src/b2/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { AutoencoderKL, SD3Transformer2DModel, type SD3Text } from "../src/models/index.js";
import { FlowMatchScheduler } from "../src/schedulers/index.js";
import { cat, noGrad, stack, tensor, tidy, type Tensor } from "../src/torch/index.js";
import {
  assertClose,
  goldenSets,
  gradientTolerance,
  outputTolerance,
  type GoldenTensors,
  type GoldenUpdate,
} from "./support/golden.js";

interface Settings extends GoldenUpdate {
  readonly trained_transitions: number;
  readonly forward: { readonly beta: number; readonly kl_weight: number; readonly advantage_clip: number };
}

/** The row of the empty text, which is the negative prompt. */
const EMPTY = 3;

for (const set of goldenSets("lora", "io_trajectory.safetensors").filter((each) => each.has("transformer"))) {
  describe(`Stable Diffusion 3's parts together, golden ${set.name}`, () => {
    const settings = set.json<Settings>("lora", "update.json");
    const { num_steps: numInferenceSteps, guidance_scale: scale, eta } = settings;
    const texts = set.tensors("transformer", "io.safetensors");
    const trajectory = set.tensors("lora", "io_trajectory.safetensors");
    const update = set.tensors("lora", "io_update.safetensors");
    const model = SD3Transformer2DModel.fromPretrained(set.path("transformer"));
    const lora = LoraAdapter.fromPretrained(model, set.path("lora"), { part: "transformer" });
    lora.weight = settings.lora_alpha / settings.lora_rank;
    const scheduler = FlowMatchScheduler.fromPretrained(set.path("scheduler"), { eta });
    const timesteps = scheduler.timesteps(numInferenceSteps);
    const latents = trajectory.get("latents"); // [B, T + 1, C, H, W]
    const [rows] = latents.shape as [number];

    const textOf = (indices: readonly number[]): SD3Text => {
      const index = tensor([...indices], { dtype: "int64" });
      return {
        encoderHiddenStates: texts.get("encoder_hidden_states").indexSelect(0, index),
        pooledProjections: texts.get("pooled_projections").indexSelect(0, index),
      };
    };
    const prompts = Array.from({ length: rows }, (_, row) => row);
    const guidedText = textOf([...prompts.map(() => EMPTY), ...prompts]);
    const guided = (sample: Tensor, timestep: number): Tensor => {
      const predicted = model.forward(cat([sample, sample]), timestep, guidedText);
      const [negative, positive] = predicted.chunk(2) as [Tensor, Tensor];
      return negative.add(positive.sub(negative).mul(scale));
    };
    const learn = (values: GoldenTensors): void =>
      noGrad(() => {
        for (const [key, value] of values.under("before.")) lora.parameters.get(key)!.copy_(value);
      });

    test("a guided trajectory, its log-probs and its pictures", () => {
      tidy(() =>
        noGrad(() => {
          let sample = latents.select(1, 0);
          const logProbs = timesteps.map((timestep, i) => {
            const noise = trajectory.get("noise").select(0, i);
            const modelOutput = guided(sample, timestep);
            const step = scheduler.step({ modelOutput, timestep, sample, numInferenceSteps, noise });
            sample = step.prevSample;
            assertClose(sample, latents.select(1, i + 1), outputTolerance, `${set.name} latents of step ${i}`);
            return step.logProb;
          });
          assertClose(stack(logProbs, 1), trajectory.get("log_probs"), outputTolerance, `${set.name} log-probs`);
          const vae = AutoencoderKL.fromPretrained(set.path("vae"));
          const { scaling_factor: factor, shift_factor: shift } = vae.config;
          const pictures = vae.decode(sample.div(factor).add(shift!)).add(1).div(2).clamp({ min: 0, max: 1 });
          assertClose(pictures, trajectory.get("image"), outputTolerance, `${set.name} pictures`);
          vae.dispose();
        }),
      );
    });

    test("a clipped policy-gradient update", () => {
      learn(update);
      const trained = settings.trained_transitions;
      const losses: number[] = [];
      const ratios: number[][] = [];
      timesteps.slice(0, trained).forEach((timestep, i) => {
        tidy(() => {
          const sample = latents.select(1, i);
          const { logProb } = scheduler.step({
            modelOutput: guided(sample, timestep),
            timestep,
            sample,
            numInferenceSteps,
            prevSample: latents.select(1, i + 1),
          });
          const oldLogProb = trajectory.get("log_probs").select(1, i);
          const batch = { logProb, oldLogProb, advantage: update.get("advantages") };
          const { loss, metrics } = ppoLoss(batch, { clipRange: settings.clip_range });
          losses.push(loss.item());
          ratios.push([...metrics["ratio"]!]);
          loss.div(trained).backward();
        });
      });
      tidy(() => {
        assertClose(tensor(losses), update.get("losses"), gradientTolerance, `${set.name} losses`);
        assertClose(tensor(ratios).transpose(0, 1), update.get("ratios"), gradientTolerance, `${set.name} ratios`);
      });
      checkGradients(update, "update");
    });

    test("an update of the forward process", () => {
      const io = set.tensors("lora", "io_forward.safetensors");
      const { beta, kl_weight: kl, advantage_clip: advantageClip } = settings.forward;
      const timesteps = io
        .get("sigmas")
        .toArray()
        .map((sigma) => sigma * scheduler.numTrainTimesteps);
      const text = textOf(io.get("rows").toArray());
      const [original, noise] = [io.get("latents"), io.get("noise")];
      tidy(() => {
        const noisy = scheduler.addNoise(original, noise, timesteps);
        const forward = (): Tensor => model.forward(noisy, timesteps, text);
        noGrad(() => {
          const golden = set.tensors("lora", "pytorch_lora_weights.safetensors").under("transformer.");
          for (const [key, value] of golden) lora.parameters.get(key)!.copy_(value);
        });
        const samplerPrediction = noGrad(forward);
        lora.enabled = false;
        const basePrediction = noGrad(forward);
        lora.enabled = true;
        learn(update);
        const prediction = forward();
        const batch = { prediction, samplerPrediction, basePrediction, original, noisy, timesteps, scheduler };
        const rows = { ...batch, advantage: io.get("advantages"), advantageClip };
        const { loss, metrics } = forwardLoss(rows, {
          beta,
          kl,
          exponent: 0.5,
          weighting: "none",
          snrCap: null,
        });
        const close = (actual: Tensor, key: string): void =>
          assertClose(actual, io.get(key), outputTolerance, `${set.name} forward ${key}`);
        close(prediction.detach(), "output");
        close(samplerPrediction, "output_old");
        close(basePrediction, "output_base");
        close(tensor([...metrics["optimality"]!]), "optimality");
        close(tensor([...metrics["positive"]!]), "positive_loss");
        close(tensor([...metrics["negative"]!]), "negative_loss");
        close(loss.detach().reshape([1]), "loss");
        loss.backward();
      });
      checkGradients(io, "forward");
    });

    /** Compares the LoRA's gradients, and drops them. */
    function checkGradients(golden: GoldenTensors, what: string): void {
      const expected = golden.under("grad.");
      assert(expected.size > 0);
      for (const [key, value] of expected) {
        const { grad } = lora.parameters.get(key)!;
        assertClose(grad!, value, gradientTolerance, `${set.name} ${what}, gradient of ${key}`);
      }
      for (const parameter of lora.parameters.values()) parameter.grad = null;
    }
  });
}
