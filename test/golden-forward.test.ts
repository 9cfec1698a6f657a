/**
 * The forward-process objective against golden vectors: one update on four rows, from the outputs of the learning, the
 * old and the base weights to the gradients of the LoRA. A golden set of another kind of denoiser has no `unet` here.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { forwardLoss } from "../src/b2/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel } from "../src/models/index.js";
import { DDIMScheduler } from "../src/schedulers/index.js";
import { noGrad, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenUNets, gradientTolerance, outputTolerance } from "./support/golden.js";

/** lora/forward.json */
interface GoldenForward {
  readonly beta: number;
  readonly kl_weight: number;
  readonly advantage_clip: number;
}

for (const set of goldenUNets("lora", "io_forward.safetensors")) {
  describe(`the forward-process objective, golden ${set.name}`, () => {
    const { beta, kl_weight: kl, advantage_clip: advantageClip } = set.json<GoldenForward>("lora", "forward.json");
    const io = set.tensors("lora", "io_forward.safetensors");
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));
    const lora = LoraAdapter.fromPretrained(unet, set.path("lora"));
    const scheduler = DDIMScheduler.fromPretrained(set.path("scheduler"));
    const [original, noise] = [io.get("latents"), io.get("noise")];
    const timesteps = io.get("timesteps").toArray();
    const noisy = scheduler.addNoise(original, noise, timesteps);
    const textEmbeds = io.find("text_embeds");
    const options = textEmbeds ? { added: { textEmbeds, timeIds: io.get("time_ids") } } : {};
    const forward = (): Tensor => unet.forward(noisy, io.get("timesteps"), io.get("encoder_hidden_states"), options);

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
