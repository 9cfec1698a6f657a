/** Gradient checkpointing of the UNet: the gradients of the plain way, in less memory. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel } from "../src/models/index.js";
import { Generator, liveTensors, nativeBytes, peakNativeBytes, randn, tidy, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenUNets } from "./support/golden.js";

for (const set of goldenUNets("lora", "pytorch_lora_weights.safetensors")) {
  describe(`gradient checkpointing, ${set.name}`, () => {
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));
    const io = set.tensors("unet", "io.safetensors");
    const textEmbeds = io.find("text_embeds");
    const added = textEmbeds && { textEmbeds, timeIds: io.get("time_ids") };

    /** Gradients of a loss for these parameters, by name. */
    function gradients(
      parameters: ReadonlyMap<string, Tensor>,
      checkpointing: boolean,
      sample: Tensor,
    ): Map<string, Tensor> {
      unet.gradientCheckpointing = checkpointing;
      tidy(() => {
        const output = unet.forward(sample, io.get("timestep"), io.get("encoder_hidden_states"), { added });
        output.mul(output).mean().backward();
      });
      return new Map(
        [...parameters].map(([key, parameter]) => {
          const { grad } = parameter;
          parameter.grad = null;
          assert(grad !== null, key);
          return [key, grad];
        }),
      );
    }

    function compare(parameters: ReadonlyMap<string, Tensor>, sample = io.get("sample")): void {
      tidy(() => {
        const plain = gradients(parameters, false, sample);
        const again = gradients(parameters, true, sample);
        for (const [key, gradient] of plain) assertClose(again.get(key)!, gradient, 1e-5, `${set.name} ${key}`);
      });
    }

    test("of a LoRA", () => {
      const lora = LoraAdapter.fromPretrained(unet, set.path("lora"));
      compare(lora.parameters);
      const before = liveTensors();
      compare(lora.parameters);
      assert(liveTensors() <= before);
      lora.dispose();
    });

    test("of a LoRA, of pictures so large that libtorch 1.13's attention goes in blocks", () => {
      const lora = LoraAdapter.fromPretrained(unet, set.path("lora"));
      const [batch, channels] = io.get("sample").shape as [number, number];
      compare(lora.parameters, randn([batch, channels, 48, 40], { generator: new Generator(0) }));
      lora.dispose();
    });

    test("of all weights", () => {
      unet.requiresGrad_();
      compare(unet.parameters());
      unet.requiresGrad_(false);
    });
  });
}

test("memory falls", () => {
  const generator = new Generator(0);
  const unet = UNet2DConditionModel.fromConfig(
    {
      block_out_channels: [32, 32],
      layers_per_block: 3,
      attention_head_dim: 2,
      cross_attention_dim: 16,
      down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
      up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    },
    { generator },
  );
  const lora = LoraAdapter.inject(unet, { generator });
  const [sample, text] = [randn([1, 4, 24, 24], { generator }), randn([1, 7, 16], { generator })];
  // What the pass needs above all that is held before it: this model's weights, and those of the tests above.
  const peak = (checkpointing: boolean): number => {
    unet.gradientCheckpointing = checkpointing;
    const before = nativeBytes();
    const highest = peakNativeBytes(() => {
      tidy(() => unet.forward(sample, 10, text).square().mean().backward());
      for (const parameter of lora.parameters.values()) parameter.grad = null;
    });
    return highest - before;
  };
  const [plain, again] = [peak(false), peak(true)];
  assert(again < plain / 2, `${plain} bytes, with checkpointing ${again}`);
  lora.dispose();
  unet.dispose();
});
