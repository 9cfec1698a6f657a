/**
 * LoRA against golden vectors: the UNet's output with it, and one clipped policy-gradient update of the whole
 * trajectory, down to the new LoRA weights.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ppoLoss } from "../src/b2/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel, type UNetForwardOptions } from "../src/models/index.js";
import { AdamW, clipGradNorm } from "../src/optim/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import { DDIMScheduler } from "../src/schedulers/index.js";
import { cat, noGrad, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  assertUpdated,
  goldenUNets,
  gradientTolerance,
  outputTolerance,
  type GoldenSet,
  type GoldenUpdate,
} from "./support/golden.js";

for (const set of goldenUNets("lora", "io_update.safetensors")) {
  describe(`LoRA, golden ${set.name}`, () => {
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));
    const lora = LoraAdapter.fromPretrained(unet, set.path("lora"));

    test("output with it, without it, and with it merged", () => {
      const io = set.tensors("unet", "io.safetensors");
      const textEmbeds = io.find("text_embeds");
      const options = textEmbeds ? { added: { textEmbeds, timeIds: io.get("time_ids") } } : {};
      const forward = (model: UNet2DConditionModel) =>
        noGrad(() => model.forward(io.get("sample"), io.get("timestep"), io.get("encoder_hidden_states"), options));
      tidy(() => {
        const expected = set.tensors("lora", "io_trajectory.safetensors").get("unet_output_with_lora");
        assertClose(forward(unet), expected, outputTolerance, `${set.name} output with LoRA`);
        lora.enabled = false;
        assertClose(forward(unet), io.get("output"), outputTolerance, `${set.name} output with LoRA off`);
        lora.enabled = true;
        const merged = UNet2DConditionModel.fromPretrained(set.path("unet"));
        LoraAdapter.fromPretrained(merged, set.path("lora")).merge();
        assertClose(forward(merged), expected, outputTolerance, `${set.name} output with LoRA merged`);
      });
    });

    test("writes the keys and numbers that it read", () => {
      const folder = temporaryFolder();
      lora.save(folder);
      const written = loadSafetensors(join(folder, "pytorch_lora_weights.safetensors"));
      const read = loadSafetensors(set.path("lora", "pytorch_lora_weights.safetensors"));
      assert.deepEqual([...written.keys()].sort(), [...read.keys()].sort());
      for (const [key, value] of read) assert(value.equal(written.get(key)!), key);
    });

    test("AdamW takes the golden gradients to the golden weights", () => {
      const { lr, betas, eps, weight_decay: weightDecay } = set.json<GoldenUpdate>("lora", "update.json").optimizer;
      const update = set.tensors("lora", "io_update.safetensors");
      const grads = update.under("clipped_grad.");
      const parameters = new Map([...grads].map(([key]) => [key, update.get(`before.${key}`).clone().requiresGrad_()]));
      for (const [key, grad] of grads) parameters.get(key)!.grad = grad;
      new AdamW(parameters, { lr, betas, eps, weightDecay }).step();
      for (const [key, value] of parameters) {
        assertClose(value, update.get(`after.${key}`), 1e-6, `${set.name} AdamW ${key}`);
      }
    });

    test("a clipped policy-gradient update", () => clippedUpdate(set, unet, lora));
  });
}

function clippedUpdate(set: GoldenSet, unet: UNet2DConditionModel, lora: LoraAdapter): void {
  const settings = set.json<GoldenUpdate>("lora", "update.json");
  const trajectory = set.tensors("lora", "io_trajectory.safetensors");
  const update = set.tensors("lora", "io_update.safetensors");
  const scheduler = DDIMScheduler.fromPretrained(set.path("scheduler"));
  const { conditions, prompts } = guidedConditions(set, trajectory.get("prompt_embeds"), trajectory);
  noGrad(() => {
    for (const [key, value] of update.under("before.")) lora.parameters.get(key)!.copy_(value);
  });

  const latents = trajectory.get("latents"); // [B, T + 1, C, H, W]
  const timesteps = trajectory.get("timesteps").toArray();
  const advantages = update.get("advantages");
  const losses: number[] = [];
  const ratios: number[][] = [];
  timesteps.forEach((timestep, i) => {
    tidy(() => {
      const sample = latents.select(1, i);
      const predicted = unet.forward(cat([sample, sample]), timestep, prompts, conditions);
      const [negative, positive] = predicted.chunk(2) as [Tensor, Tensor];
      const { logProb } = scheduler.step({
        modelOutput: negative.add(positive.sub(negative).mul(settings.guidance_scale)),
        timestep,
        sample,
        numInferenceSteps: settings.num_steps,
        eta: settings.eta,
        prevSample: latents.select(1, i + 1),
      });
      const batch = { logProb, oldLogProb: trajectory.get("log_probs").select(1, i), advantage: advantages };
      const { loss, metrics } = ppoLoss(batch, { clipRange: settings.clip_range });
      losses.push(loss.item());
      ratios.push([...metrics["ratio"]!]);
      loss.div(timesteps.length).backward();
    });
  });

  assertClose(tensor(losses), update.get("losses"), gradientTolerance, `${set.name} losses`);
  assertClose(tensor(ratios).transpose(0, 1), update.get("ratios"), gradientTolerance, `${set.name} ratios`);
  const parameters = [...lora.parameters.values()];
  const norm = tensor([clipGradNorm(parameters, settings.max_grad_norm)]);
  assertClose(norm, update.get("grad_norm_before_clipping"), gradientTolerance, `${set.name} gradient norm`);
  for (const [key, expected] of update.under("clipped_grad.")) {
    assertClose(lora.parameters.get(key)!.grad!, expected, gradientTolerance, `${set.name} gradient of ${key}`);
  }
  const { lr, betas, eps, weight_decay: weightDecay } = settings.optimizer;
  new AdamW(lora.parameters, { lr, betas, eps, weightDecay }).step();
  for (const [key, expected] of update.under("after.")) {
    const grad = update.get(`clipped_grad.${key}`);
    assertUpdated(lora.parameters.get(key)!, expected, grad, settings.optimizer, `${set.name} ${key} after the update`);
  }
}

/** The text of an unguided and a guided half, and SDXL's further conditions. */
function guidedConditions(
  set: GoldenSet,
  promptEmbeds: Tensor,
  trajectory: { get(key: string): Tensor },
): { prompts: Tensor; conditions: UNetForwardOptions } {
  const batch = promptEmbeds.size(0);
  const negative = trajectory.get("negative_prompt_embeds").repeatInterleave(batch, 0);
  const prompts = cat([negative, promptEmbeds]);
  if (!set.has("text_encoder_2")) return { prompts, conditions: {} };
  // The encoder's golden texts begin with the two prompts; the fourth is the empty text. The sizes are the UNet's.
  const pooled = set.tensors("text_encoder_2", "io.safetensors").get("text_embeds");
  const sizes = set.tensors("unet", "io.safetensors").get("time_ids");
  const rows = (...indices: number[]) => tensor(indices, { dtype: "int64" });
  return {
    prompts,
    conditions: {
      added: {
        textEmbeds: pooled.indexSelect(0, rows(3, 3, 0, 1)),
        timeIds: sizes.indexSelect(0, rows(0, 0, 0, 1)),
      },
    },
  };
}
