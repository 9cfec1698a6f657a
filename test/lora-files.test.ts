/** LoRA files in every form: round trips, the names that other programs look for, several at once, and what is refused. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { convertLora, loadLora, LoraAdapter, parseLoraKey, readLora } from "../src/lora/index.js";
import { CLIPTextModel, UNet2DConditionModel } from "../src/models/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { full, Generator, liveTensors, noGrad, randn, tensor, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance, type GoldenSet } from "./golden.js";

const folder = mkdtempSync(join(tmpdir(), "b2-lora-"));
after(() => rmSync(folder, { recursive: true }));

/** Names under which kohya's trainer, ComfyUI and AUTOMATIC1111 know some layers. */
const kohyaNames: Readonly<Record<string, readonly string[]>> = {
  sd1: [
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_out_0",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_attn1_to_v",
  ],
  sdxl: [
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "lora_unet_input_blocks_8_1_transformer_blocks_1_attn2_to_out_0",
    "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k",
    "lora_unet_output_blocks_0_1_transformer_blocks_1_attn1_to_v",
    "lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_v",
  ],
};

/** The UNet's golden output, whatever is attached to it. */
function outputOf(set: GoldenSet, unet: UNet2DConditionModel): Tensor {
  const io = set.tensors("unet", "io.safetensors");
  const textEmbeds = io.find("text_embeds");
  const added = textEmbeds && { textEmbeds, timeIds: io.get("time_ids") };
  return noGrad(() => unet.forward(io.get("sample"), io.get("timestep"), io.get("encoder_hidden_states"), { added }));
}

for (const set of goldenSets("lora", "pytorch_lora_weights.safetensors")) {
  describe(`LoRA files, ${set.name}`, () => {
    const golden = set.path("lora", "pytorch_lora_weights.safetensors");
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));
    const kohya = join(folder, `${set.name}-kohya.safetensors`);
    const peft = join(folder, `${set.name}-peft.safetensors`);

    test("PEFT to kohya and back, to the bit", () => {
      const adapter = LoraAdapter.fromPretrained(unet, golden);
      adapter.save(kohya, { form: "kohya" });
      adapter.dispose();
      const again = LoraAdapter.fromPretrained(unet, kohya);
      again.save(peft);
      tidy(() => {
        const expected = set.tensors("lora", "io_trajectory.safetensors").get("unet_output_with_lora");
        assertClose(outputOf(set, unet), expected, outputTolerance, `${set.name} output with LoRA of kohya's form`);
        const [written, read] = [loadSafetensors(peft), loadSafetensors(golden)];
        assert.deepEqual([...written.keys()].sort(), [...read.keys()].sort());
        for (const [key, value] of read) assert(value.equal(written.get(key)!), key);
      });
      again.dispose();
    });

    test("kohya's names", () => {
      const { tensors, metadata } = readHeader(kohya);
      for (const name of kohyaNames[set.name] ?? []) {
        for (const end of ["lora_down.weight", "lora_up.weight", "alpha"]) assert(tensors.has(`${name}.${end}`), name);
      }
      assert.equal(metadata["ss_network_module"], "networks.lora");
    });

    test("converted without the model", () => {
      if (set.name === "sd2") return; // one layer a block, which no published model has
      const [there, back] = [join(folder, "there.safetensors"), join(folder, "back.safetensors")];
      convertLora(golden, there, { form: "kohya" });
      assert.deepEqual([...readHeader(there).tensors.keys()].sort(), [...readHeader(kohya).tensors.keys()].sort());
      convertLora(there, back, { form: "peft" });
      tidy(() => {
        const [converted, original] = [loadSafetensors(back), loadSafetensors(golden)];
        for (const [key, value] of original) assert(value.equal(converted.get(key)!), key);
      });
    });

    test("several with weights add up, and merge to the same", () => {
      tidy(() => {
        const plain = outputOf(set, unet);
        const [first] = loadLora({ unet }, golden, { weight: 0.7 });
        const [second] = loadLora({ unet }, kohya, { weight: -0.7 });
        assertClose(outputOf(set, unet), plain, outputTolerance, `${set.name} opposite weights`);
        second!.weight = 0.3;
        const expected = set.tensors("lora", "io_trajectory.safetensors").get("unet_output_with_lora");
        assertClose(outputOf(set, unet), expected, outputTolerance, `${set.name} 0.7 and 0.3`);
        first!.remove();
        second!.remove();
        assert(outputOf(set, unet).equal(plain));
        const merged = UNet2DConditionModel.fromPretrained(set.path("unet"));
        const parts = [0.7, 0.3].flatMap((weight) => loadLora({ unet: merged }, golden, { weight }));
        LoraAdapter.merge(parts);
        assertClose(outputOf(set, merged), expected, outputTolerance, `${set.name} merged`);
        for (const adapter of [first!, second!, ...parts]) adapter.dispose();
        merged.dispose();
      });
    });

    test("what does not fit is named, and the model is as it was", () => {
      const before = liveTensors();
      const broken = join(folder, "broken.safetensors");
      const alter = (change: (tensors: Map<string, Tensor>, key: string) => void): void =>
        tidy(() => {
          const tensors = loadSafetensors(golden);
          change(tensors, [...tensors.keys()][0]!);
          saveSafetensors(broken, tensors);
        });
      const cases: readonly (readonly [(tensors: Map<string, Tensor>, key: string) => void, RegExp])[] = [
        [(tensors, key) => tensors.delete(key), /Expected both matrices of .* but received none for A/],
        [(tensors, key) => tensors.set(key, zeros([4, 999])), /lora_A: Expected \[4, \d+\] but received \[4, 999\]/],
        [(tensors, key) => tensors.set(key, zeros([5, 16])), /Expected one rank for .* but received 5 and 4/],
        [(tensors, key) => tensors.set(key, full(tensors.get(key)!.shape, NaN)), /finite numbers but received NaN/],
        [(tensors, key) => tensors.set(key, zeros([4, 16, 3, 3])), /3x3 kernel: LoRA of such convolutions \(LoCon\)/],
        [(tensors) => tensors.set("unet.x.dora_scale", zeros([1])), /x\.dora_scale.*DoRA/],
        [(tensors) => tensors.set("lora_unet_a.hada_w1_a", zeros([1])), /LoHa/],
        [(tensors) => tensors.set("what", zeros([1])), /what: Expected a key such as unet/],
        [
          (tensors) => tensors.set("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", zeros([4, 4])),
          /Expected keys of one form, kohya, but received peft/,
        ],
        [
          (tensors) => {
            for (const half of ["A", "B"]) tensors.set(`unet.nowhere.lora_${half}.weight`, zeros([4, 4]));
          },
          /unet\.nowhere: Expected a linear layer but the model has no such layer/,
        ],
        [
          (tensors) => {
            for (const half of ["A", "B"]) tensors.set(`text_encoder_2.x.lora_${half}.weight`, zeros([4, 4]));
          },
          /text_encoder_2\.x: Expected a model with text_encoder_2/,
        ],
      ];
      for (const [change, message] of cases) {
        alter(change);
        assert.throws(() => loadLora({ unet }, broken), message);
      }
      writeFileSync(broken, readFileSync(golden).subarray(0, 5000));
      assert.throws(() => loadLora({ unet }, broken), /broken\.safetensors.*Expected/);
      assert.equal(liveTensors(), before);
      for (const module of unet.modules().values()) {
        assert.equal((module as { branches?: unknown[] }).branches?.length ?? 0, 0);
      }
    });
  });
}

test("a LoRA of another family is refused", () => {
  const [sd1, sdxl] = ["sd1", "sdxl"].map((name) => goldenSets("lora").find((set) => set.name === name)!);
  const unet = UNet2DConditionModel.fromPretrained(sd1!.path("unet"));
  assert.throws(
    () => loadLora({ unet }, sdxl!.path("lora")),
    /Expected a LoRA for this model but received one that differs/,
  );
  unet.dispose();
});

describe("layers beyond the attention of the UNet", () => {
  const set = goldenSets("lora").find(({ name }) => name === "sd1")!;
  const file = join(folder, "all.safetensors");
  const generator = new Generator(3);
  const [rank, alpha] = [2, 1];

  /** Layers of kohya's default targets, and their weights [out, in] or [out, in, 1, 1]. */
  const targets = {
    lora_unet_down_blocks_0_attentions_0_proj_in: "down_blocks.0.attentions.0.proj_in",
    lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj:
      "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    lora_unet_mid_block_attentions_0_proj_out: "mid_block.attentions.0.proj_out",
    lora_unet_down_blocks_1_resnets_0_conv_shortcut: "down_blocks.1.resnets.0.conv_shortcut",
    lora_te_text_model_encoder_layers_0_self_attn_q_proj: "text_model.encoder.layers.0.self_attn.q_proj",
    lora_te_text_model_encoder_layers_1_mlp_fc2: "text_model.encoder.layers.1.mlp.fc2",
  };

  /** Both models, and each target's weight in them. */
  function models() {
    const unet = UNet2DConditionModel.fromPretrained(set.path("unet"));
    const text = CLIPTextModel.fromPretrained(set.path("text_encoder"));
    const weightOf = (path: string): Tensor => {
      const all = new Map([...unet.parameters(), ...text.parameters()]);
      return (all.get(`${path}.weight`) ?? all.get(`${path.replace("text_model.", "")}.weight`))!;
    };
    return { unet, text, weightOf };
  }

  test("feed-forward, projections and shortcuts of SD 1, and the text encoder, from kohya's form", () => {
    tidy(() => {
      const adapted = models();
      const byHand = models();
      const tensors: Record<string, Tensor> = {};
      for (const [name, path] of Object.entries(targets)) {
        const { shape } = adapted.weightOf(path);
        const [outputs, inputs, ...kernel] = shape as [number, number];
        const a = randn([rank, inputs], { generator }).mul(0.3);
        const b = randn([outputs, rank], { generator }).mul(0.3);
        tensors[`${name}.lora_down.weight`] = a.reshape([rank, inputs, ...kernel]);
        tensors[`${name}.lora_up.weight`] = b.reshape([outputs, rank, ...kernel]);
        tensors[`${name}.alpha`] = tensor(alpha);
        byHand.weightOf(path).add_(
          b
            .matmul(a)
            .mul(alpha / rank)
            .reshape(shape),
        );
      }
      saveSafetensors(file, tensors);
      const adapters = loadLora({ unet: adapted.unet, text_encoder: adapted.text }, file);
      assert.equal(adapters.length, 2);
      const ids = set.tensors("text_encoder", "io.safetensors").get("input_ids");
      const textOf = ({ text }: { text: CLIPTextModel }) => noGrad(() => text.forward(ids).lastHiddenState);
      assertClose(textOf(adapted), textOf(byHand), outputTolerance, "text with LoRA");
      assertClose(outputOf(set, adapted.unet), outputOf(set, byHand.unet), outputTolerance, "UNet with LoRA");
      LoraAdapter.merge(adapters);
      assertClose(outputOf(set, adapted.unet), outputOf(set, byHand.unet), outputTolerance, "UNet with it merged");
    });
  });

  test("alpha and rank of every layer survive PEFT's form", () => {
    const converted = join(folder, "all-peft.safetensors");
    convertLora(file, converted, { form: "peft" });
    tidy(() => {
      const layers = readLora(converted).layers;
      assert.deepEqual(layers.map(({ path }) => path).sort(), Object.values(targets).sort());
      for (const layer of layers) assert.deepEqual([layer.alpha, layer.a.size(0)], [alpha, rank]);
    });
  });
});

test("keys of diffusers' older forms", () => {
  const expected = { form: "peft", part: "unet", path: "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0" };
  const old = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.down.weight";
  assert.deepEqual(parseLoraKey(old), { ...expected, value: "a" });
  const newer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.up.weight";
  assert.deepEqual(parseLoraKey(newer), { ...expected, value: "b" });
});
