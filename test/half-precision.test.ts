/**
 * Weights in half precision that compute in float32 are the rounded weights in float32, gradients too: but for float32's
 * own rounding, in which matrix products may depend on where in memory their operands lie.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { LoraAdapter } from "../src/lora/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { cat, Generator, noGrad, randn, tidy, type Tensor } from "../src/torch/index.js";
import { fixtures } from "./support/folders.js";
import { assertClose, gradientTolerance, outputTolerance } from "./support/golden.js";

/**
 * All that a run asks of a pipeline: pictures, predictions, and the gradients of a LoRA.
 *
 * The LoRA is a tenth of a standard normal. With all of one, attention saturates, and latents that differ by 1e-6 give
 * gradients that differ by their own size: nothing could then be compared but equal bits.
 */
function everything(pipeline: StableDiffusionPipeline): Map<string, Tensor> {
  const generator = new Generator(0);
  const prompts = pipeline.encodePrompts(["a cat riding a bike", ""]);
  const latents = randn([2, ...pipeline.latentShape()], { generator });
  const lora = LoraAdapter.inject(pipeline.unet, { rank: 2, generator });
  noGrad(() => lora.parameters.forEach((parameter) => parameter.copy_(randn(parameter.shape, { generator }).mul(0.1))));
  const predicted = pipeline.predict(latents, [601, 1], pipeline.condition(prompts));
  predicted.square().mean().backward();
  const { hiddenStates, pooled } = prompts.states;
  const results = new Map([
    ["gradients", cat([...lora.parameters.values()].map(({ grad }) => grad!.flatten()))],
    ["hidden states", hiddenStates],
    ...(pooled === undefined ? [] : [["pooled", pooled] as const]),
    ["prediction", predicted.detach()],
    ["pictures", noGrad(() => pipeline.decode(latents))],
  ]);
  lora.dispose();
  return results;
}

for (const family of ["sd1", "sd2", "sdxl"]) {
  for (const dtype of ["bfloat16", "float16"] as const) {
    test(`${family}, held in ${dtype}`, () => {
      const folder = join(fixtures, family);
      const half = StableDiffusionPipeline.fromPretrained(folder, { dtype, computeDtype: "float32" });
      const whole = StableDiffusionPipeline.fromPretrained(folder);
      for (const part of [
        whole.unet,
        whole.vae,
        whole.textEncoder,
        ...(whole.textEncoder2 ? [whole.textEncoder2] : []),
      ]) {
        tidy(() =>
          noGrad(() =>
            part.parameters().forEach((weight) => weight.copy_(weight.to({ dtype }).to({ dtype: "float32" }))),
          ),
        );
      }
      tidy(() => {
        const expected = everything(whole);
        for (const [name, value] of everything(half)) {
          assert.equal(value.dtype, "float32");
          const tolerance = name === "gradients" ? gradientTolerance : outputTolerance;
          assertClose(value, expected.get(name)!, tolerance, `${family}, ${name}`);
        }
      });
      half.dispose();
      whole.dispose();
    });
  }
}
