/**
 * The forward-process objective against golden vectors: one update on four rows, from the outputs of the learning, the
 * old and the base weights to the gradients of the LoRA, for a model of any family.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { forwardLoss } from "../src/b2/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { openModel, promptEmbeds, type DiffusionModel, type PromptEmbeds } from "../src/pipeline/index.js";
import { noGrad, tensor, tidy, type Tensor } from "../src/torch/index.js";
import {
  assertClose,
  goldenModel,
  goldenSets,
  gradientTolerance,
  outputTolerance,
  type GoldenSet,
  type GoldenTensors,
  type GoldenUpdate,
} from "./support/golden.js";

/** lora/forward.json, or a part of lora/update.json */
interface GoldenForward {
  readonly beta: number;
  readonly kl_weight: number;
  readonly advantage_clip: number;
}

function settingsOf(set: GoldenSet): GoldenForward {
  if (set.has("lora", "forward.json")) return set.json<GoldenForward>("lora", "forward.json");
  return set.json<{ forward: GoldenForward }>("lora", "update.json").forward;
}

/** The texts of the rows: their states, or which of the golden texts they are. */
function embedsOf(set: GoldenSet, model: DiffusionModel, io: GoldenTensors): PromptEmbeds {
  const hiddenStates = io.find("encoder_hidden_states");
  if (hiddenStates === undefined) {
    const { texts } = set.json<{ texts: string[] }>("tokenizer", "expected.json");
    return model.encodePrompts(
      io
        .get("rows")
        .toArray()
        .map((row) => texts[row]!),
    );
  }
  const pooled = io.find("text_embeds");
  return promptEmbeds(pooled ? { hiddenStates, pooled, timeIds: io.get("time_ids") } : { hiddenStates });
}

for (const set of goldenSets("lora", "io_forward.safetensors")) {
  describe(`the forward-process objective, golden ${set.name}`, () => {
    const { beta, kl_weight: kl, advantage_clip: advantageClip } = settingsOf(set);
    const { lora_alpha: alpha, lora_rank: rank } = set.json<GoldenUpdate>("lora", "update.json");
    const io = set.tensors("lora", "io_forward.safetensors");
    const { path, options } = goldenModel(set);
    const model = openModel(path, {}, options);
    const lora = LoraAdapter.fromPretrained(model.denoiser, set.path("lora"), { part: model.denoiserName });
    lora.weight = alpha / rank;
    const { scheduler } = model;
    const [original, noise] = [io.get("latents"), io.get("noise")];
    const timesteps =
      io.find("timesteps")?.toArray() ??
      io
        .get("sigmas")
        .toArray()
        .map((sigma) => sigma * scheduler.numTrainTimesteps);
    const noisy = scheduler.addNoise(original, noise, timesteps);
    const conditioning = model.condition(embedsOf(set, model, io));
    const forward = (): Tensor => model.predict(noisy, timesteps, conditioning);

    const samplerPrediction = noGrad(forward); // the LoRA of the file has sampled
    lora.enabled = false;
    const basePrediction = noGrad(forward);
    lora.enabled = true;
    noGrad(() => {
      const learning = set.tensors("lora", "io_update.safetensors").under("before.");
      for (const [key, value] of learning) lora.parameters.get(key)!.copy_(value);
    });
    const prediction = forward();
    const batch = { prediction, samplerPrediction, basePrediction, original, noisy, timesteps, scheduler };
    const rows = { ...batch, advantage: io.get("advantages"), advantageClip };
    const form = { beta, exponent: 0.5, weighting: "none", snrCap: null } as const;

    test("outputs of the learning, the old and the base weights, and the losses of each row", () => {
      const { loss, metrics } = forwardLoss(rows, { ...form, kl });
      const close = (actual: Tensor, key: string): void =>
        assertClose(actual, io.get(key), outputTolerance, `${set.name} ${key}`);
      close(prediction.detach(), "output");
      close(samplerPrediction, "output_old");
      close(basePrediction, "output_base");
      close(tensor(metrics["optimality"]!), "optimality");
      close(tensor(metrics["positive"]!), "positive_loss");
      close(tensor(metrics["negative"]!), "negative_loss");
      close(tensor(metrics["baseKl"]!), "kl");
      close(loss.detach().reshape([1]), "loss");
    });

    test("gradients of the LoRA", () => {
      tidy(() => forwardLoss(rows, { ...form, kl }).loss.backward());
      const grads = io.under("grad.");
      assert.ok(grads.size > 0);
      for (const [key, grad] of grads) {
        assertClose(lora.parameters.get(key)!.grad!, grad, gradientTolerance, `${set.name} gradient of ${key}`);
      }
    });
  });
}
