/** LoRA files in every form: round trips, the names that other programs look for, several at once, and what is refused. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { neededFiles } from "../src/hub/files.js";
import {
  convertLora,
  loadLora,
  LoraAdapter,
  parseLoraKey,
  readLora,
  writeLora,
  type LoraLayer,
} from "../src/lora/index.js";
import { CLIPTextModel, UNet2DConditionModel } from "../src/models/index.js";
import { Linear, Module, Weights } from "../src/nn/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { full, Generator, liveTensors, noGrad, randn, tensor, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { assertClose, goldenSets, goldenUNets, outputTolerance, type GoldenSet } from "./support/golden.js";

const folder = temporaryFolder();

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

for (const set of goldenUNets("lora", "pytorch_lora_weights.safetensors")) {
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
        [
          (tensors, key) => tensors.set(key, zeros([4, 16, 3, 3])),
          /lora_A: Expected \[4, \d+\] but received \[4, 144\]/,
        ],
        [
          (tensors, key) => tensors.set(key.replace("_A", "_B"), zeros([16, 4, 3, 3])),
          /Expected a 1x1 kernel for B but received 3x3/,
        ],
        [(tensors) => tensors.set("unet.x.lora_mid.weight", zeros([1])), /a LoCon with a core/],
        [(tensors) => tensors.set("unet.x.alpha", tensor(NaN)), /x\.alpha: Expected a finite number but received NaN/],
        [(tensors) => tensors.set("unet.x.alpha", zeros([2])), /x\.alpha: Expected a finite number but received \[2\]/],
        [(tensors) => tensors.set("unet.x.dora_scale", zeros([1])), /x\.dora_scale.*DoRA/],
        [(tensors) => tensors.set("lora_unet_a.hada_w1_a", zeros([1])), /LoHa/],
        [(tensors) => tensors.set("what", zeros([1])), /what: Expected a key such as unet/],
        [
          (tensors) => tensors.set("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", zeros([4, 4])),
          /Expected keys of one format, kohya, but received peft/,
        ],
        [
          (tensors) => {
            for (const half of ["A", "B"]) tensors.set(`unet.nowhere.lora_${half}.weight`, zeros([4, 4]));
          },
          /unet\.nowhere: Expected a linear layer or a convolution but the model has no such layer/,
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
        assert.equal((module as { adapters?: unknown[] }).adapters?.length ?? 0, 0);
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

  /** Layers of kohya's targets, LoCon's and LCM-LoRA's among them. */
  const targets = {
    lora_unet_down_blocks_0_attentions_0_proj_in: "down_blocks.0.attentions.0.proj_in",
    lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj:
      "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    lora_unet_mid_block_attentions_0_proj_out: "mid_block.attentions.0.proj_out",
    lora_unet_down_blocks_1_resnets_0_conv_shortcut: "down_blocks.1.resnets.0.conv_shortcut",
    lora_unet_down_blocks_0_resnets_1_conv1: "down_blocks.0.resnets.1.conv1",
    lora_unet_down_blocks_0_downsamplers_0_conv: "down_blocks.0.downsamplers.0.conv",
    lora_unet_up_blocks_0_upsamplers_0_conv: "up_blocks.0.upsamplers.0.conv",
    lora_unet_mid_block_resnets_0_time_emb_proj: "mid_block.resnets.0.time_emb_proj",
    lora_unet_time_embedding_linear_1: "time_embedding.linear_1",
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

  test("feed-forward, projections, convolutions and embeddings of SD 1, and the text encoder, from kohya's form", () => {
    tidy(() => {
      const adapted = models();
      const byHand = models();
      const tensors: Record<string, Tensor> = {};
      for (const [name, path] of Object.entries(targets)) {
        const { shape } = adapted.weightOf(path);
        const [outputs, inputs, ...kernel] = shape as [number, number];
        const a = randn([rank, inputs, ...kernel], { generator }).mul(0.3);
        const b = randn([outputs, rank], { generator }).mul(0.3);
        tensors[`${name}.lora_down.weight`] = a;
        tensors[`${name}.lora_up.weight`] = b.reshape([outputs, rank, ...kernel.map(() => 1)]);
        tensors[`${name}.alpha`] = tensor(alpha);
        byHand.weightOf(path).add_(
          b
            .matmul(a.flatten(1))
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

  test("convolutions are kernels in PEFT's form too, and to kohya's and back nothing changes", () => {
    const [converted, back] = [join(folder, "kernels.safetensors"), join(folder, "kernels-kohya.safetensors")];
    convertLora(file, converted, { form: "peft" });
    convertLora(converted, back, { form: "kohya" });
    const shapeOf = (key: string) => readHeader(converted).tensors.get(`unet.${key}.weight`)!.shape;
    assert.deepEqual(shapeOf("down_blocks.0.resnets.1.conv1.lora_A").slice(2), [3, 3]);
    assert.deepEqual(shapeOf("down_blocks.0.resnets.1.conv1.lora_B").slice(1), [rank, 1, 1]);
    assert.deepEqual(shapeOf("mid_block.attentions.0.proj_out.lora_A").slice(2), [1, 1]);
    tidy(() => {
      const [written, read] = [loadSafetensors(back), loadSafetensors(file)];
      assert.deepEqual([...written.keys()].sort(), [...read.keys()].sort());
      for (const [key, value] of read) assert(value.equal(written.get(key)!), key);
    });
  });

  test("an adapter of convolutions can be trained, saved as kernels and loaded", () => {
    tidy(() => {
      const { unet } = models();
      const options = { generator, rank, targetModules: ["conv1", "downsamplers.0.conv", "proj_in"] };
      const adapter = LoraAdapter.inject(unet, options);
      const io = set.tensors("unet", "io.safetensors");
      const forward = () => unet.forward(io.get("sample"), io.get("timestep"), io.get("encoder_hidden_states"));
      assertClose(forward(), io.get("output"), outputTolerance, "nothing changes yet");
      forward().square().mean().backward();
      noGrad(() => {
        for (const [key, value] of adapter.parameters) {
          // A's gradient is zero while B is.
          if (key.endsWith("lora_B.weight")) assert(value.grad!.abs().amax().item() > 0, key);
          value.add_(randn(value.shape, { generator }).mul(0.1));
        }
        const learnt = forward();
        adapter.save(folder);
        adapter.remove();
        const { tensors } = readHeader(join(folder, "pytorch_lora_weights.safetensors"));
        assert.equal(tensors.get("unet.mid_block.resnets.0.conv1.lora_A.weight")!.shape.length, 4);
        assert.equal(tensors.get("unet.mid_block.attentions.0.proj_in.lora_A.weight")!.shape.length, 4);
        LoraAdapter.fromPretrained(unet, folder);
        assert(forward().equal(learnt));
      });
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
  const attention = "mid_block.attentions.0.transformer_blocks.0.attn1";
  const self = "text_model.encoder.layers.0.self_attn";
  const cases: readonly (readonly [key: string, part: string, path: string, value: string])[] = [
    [`unet.${attention}.processor.to_out_lora.down.weight`, "unet", `${attention}.to_out.0`, "a"],
    [`unet.${attention}.to_out.0.lora.up.weight`, "unet", `${attention}.to_out.0`, "b"],
    // save_attn_procs wrote the UNet's without its name.
    [`${attention}.processor.to_q_lora.up.weight`, "unet", `${attention}.to_q`, "b"],
    [`text_encoder.${self}.to_v_lora.down.weight`, "text_encoder", `${self}.v_proj`, "a"],
    [`text_encoder_2.${self}.to_out_lora.up.weight`, "text_encoder_2", `${self}.out_proj`, "b"],
    [`text_encoder.${self}.q_proj.lora_linear_layer.up.weight`, "text_encoder", `${self}.q_proj`, "b"],
  ];
  for (const [key, part, path, value] of cases) {
    assert.deepEqual(parseLoraKey(key), { form: "peft", part, path, value }, key);
  }
});

test("kohya's names of SDXL's layers, there and back", () => {
  const names = {
    lora_unet_input_blocks_0_0: "conv_in",
    lora_unet_input_blocks_3_0_op: "down_blocks.0.downsamplers.0.conv",
    lora_unet_input_blocks_4_0_skip_connection: "down_blocks.1.resnets.0.conv_shortcut",
    lora_unet_middle_block_2_emb_layers_1: "mid_block.resnets.1.time_emb_proj",
    lora_unet_output_blocks_2_2_conv: "up_blocks.0.upsamplers.0.conv",
    lora_unet_output_blocks_5_0_in_layers_2: "up_blocks.1.resnets.2.conv1",
    lora_unet_output_blocks_5_1_proj_in: "up_blocks.1.attentions.2.proj_in",
    lora_unet_time_embed_0: "time_embedding.linear_1",
    lora_unet_label_emb_0_2: "add_embedding.linear_2",
    lora_unet_out_2: "conv_out",
    lora_te1_text_model_encoder_layers_3_mlp_fc1: "text_encoder.text_model.encoder.layers.3.mlp.fc1",
    lora_te2_text_projection: "text_encoder_2.text_projection",
  };
  const file = join(folder, "sdxl-names.safetensors");
  tidy(() => {
    const [a, b] = [zeros([2, 4]), zeros([4, 2])];
    const layers = Object.values(names).map((name): LoraLayer => {
      const [, part = "unet", path] = /^(?:(text_encoder\w*)\.)?(.+)$/.exec(name)!;
      return { part: part, path: path!, a, b, alpha: 2 };
    });
    writeLora(file, layers, { form: "kohya", family: "sdxl" });
    const written = [...readHeader(file).tensors.keys()].filter((key) => key.endsWith(".alpha"));
    assert.deepEqual(written.sort(), Object.keys(names).sort().map((name) => `${name}.alpha`)); // prettier-ignore
    const read = readLora(file).layers.map(({ part, path }) => `${part}.${path}`.replace(/^unet\./, ""));
    assert.deepEqual(read.sort(), Object.values(names).sort());
  });
  const { part, path } = parseLoraKey("lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight")!;
  assert.deepEqual([part, path], ["unet", "down_blocks.1.attentions.0.proj_in"], "diffusers' names of SDXL");
});

test("the family is in the metadata of kohya's form", () => {
  const path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k";
  const file = join(folder, "family.safetensors");
  for (const [width, v2, version] of [
    [768, "False", "sd_v1"],
    [1024, "True", "sd_v2"],
  ] as const) {
    tidy(() => writeLora(file, [{ part: "unet", path, a: zeros([2, width]), b: zeros([8, 2]), alpha: 2 }], { form: "kohya" })); // prettier-ignore
    const { metadata } = readHeader(file);
    assert.deepEqual([metadata["ss_v2"], metadata["ss_base_model_version"]], [v2, version]);
  }
});

describe("a model of another family", () => {
  /** A transformer of the next families, as far as a LoRA sees it. */
  class Transformer extends Module {
    readonly toQ: Linear;

    constructor(weights: Weights) {
      super(weights);
      this.toQ = new Linear(weights.at("single_transformer_blocks.0.attn.to_q"), 6, 4);
    }
  }
  const fresh = () => new Transformer(Weights.random(new Generator(0)));
  const options = { generator: new Generator(1), rank: 2, targetModules: ["to_q"], part: "transformer" };
  const file = join(folder, "transformer.safetensors");

  test("is read and written under its part's name", () => {
    const model = fresh();
    const adapter = LoraAdapter.inject(model, options);
    tidy(() => noGrad(() => adapter.parameters.forEach((value) => value.add_(1))));
    adapter.save(file);
    const { tensors, metadata } = readHeader(file);
    const layer = "transformer.single_transformer_blocks.0.attn.to_q";
    assert.deepEqual([...tensors.keys()], [`${layer}.lora_A.weight`, `${layer}.lora_B.weight`]);
    const described = JSON.parse(metadata["lora_adapter_metadata"]!) as Record<string, unknown>;
    assert.deepEqual(described["transformer.target_modules"], ["to_q"]);

    const read = LoraAdapter.fromPretrained(fresh(), file, { part: "transformer" });
    for (const [key, value] of adapter.parameters) assert(value.equal(read.parameters.get(key)!), key);
    tidy(() => noGrad(() => adapter.parameters.forEach((value) => value.mul_(3))));
    adapter.load(file);
    for (const [key, value] of read.parameters) assert(value.equal(adapter.parameters.get(key)!), key);
    assert.throws(
      () => LoraAdapter.fromPretrained(fresh(), file),
      /transformer\.\S+: Expected a model with transformer/,
    );
    const other = LoraAdapter.inject(fresh(), { ...options, part: "unet" });
    assert.throws(
      () => other.load(file),
      /unet\.\S+to_q\.lora_A\.weight: .* nothing[^]*transformer\.\S+: Expected no such key/,
    );
  });

  test("takes the keys that name no part, where it is the one that is asked for", () => {
    const own = temporaryFolder();
    tidy(() => {
      const key = "base_model.model.single_transformer_blocks.0.attn.to_q";
      const [a, b] = [zeros([2, 6]), zeros([4, 2])];
      saveSafetensors(join(own, "adapter_model.safetensors"), {
        [`${key}.lora_A.weight`]: a,
        [`${key}.lora_B.weight`]: b,
      });
    });
    writeFileSync(join(own, "adapter_config.json"), JSON.stringify({ lora_alpha: 4 }));
    const [layer] = LoraAdapter.fromPretrained(fresh(), own, { part: "transformer" }).layers();
    assert.deepEqual([layer!.part, layer!.alpha], ["transformer", 4]);
    const unnamed = "text_model.encoder.layers.0.mlp.fc1.lora_A.weight";
    assert.deepEqual(parseLoraKey(unnamed, "text_encoder_2")?.part, "text_encoder_2");
    assert.deepEqual(parseLoraKey(`text_encoder_3.${unnamed}`)?.part, "text_encoder_3");
  });

  test("has no names in kohya's form that are known here", () => {
    const adapter = LoraAdapter.inject(fresh(), options);
    const [kohya, flux] = [join(folder, "none.safetensors"), join(folder, "flux.safetensors")];
    const refused = { name: "InputError", message: /Expected layers of Stable Diffusion's .* received transformer\./ };
    assert.throws(() => adapter.save(kohya, { form: "kohya" }), refused);
    adapter.save(file);
    assert.throws(() => convertLora(file, kohya, { form: "kohya" }), {
      ...refused,
      message: new RegExp(`^${file}: Expected`),
    });
    assert(!existsSync(kohya));
    saveSafetensors(flux, { "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": zeros([2, 6]) });
    assert.throws(() => readLora(flux), /kohya's format for Flux, which is not supported/);
  });
});

test("targets that name no layer are all told, with what they may have meant", () => {
  const unet = UNet2DConditionModel.fromPretrained(
    goldenSets("lora")
      .find(({ name }) => name === "sd1")!
      .path("unet"),
  );
  const inject = (...targetModules: string[]) =>
    LoraAdapter.inject(unet, { targetModules, generator: new Generator(0) });
  const before = liveTensors();
  assert.throws(() => inject("to_qq", "to_k", "norm1", "to_out.1", "something-else"), {
    name: "InputError",
    message: [
      'Expected linear layers or convolutions of the model for lora.targetModules but received "to_qq"; did you mean "to_q"?',
      'received "norm1", which is a GroupNorm at down_blocks.0.resnets.0.norm1',
      'received "to_out.1"; did you mean "to_out.0"?',
      'received "something-else"',
    ].join("\n  "),
  });
  assert(liveTensors() <= before); // fewer where garbage was collected
  unet.dispose();
});

describe("PEFT's description of the adapter", () => {
  const paths = ["down_blocks.0.attentions.0.proj_in", "mid_block.attentions.0.proj_in"] as const;
  const rank = 4;
  const tensorsUnder = (prefix: string, layers: readonly string[] = paths): Record<string, Tensor> =>
    Object.fromEntries(
      layers.flatMap((path) => [
        [`${prefix}${path}.lora_A.weight`, zeros([rank, 8])],
        [`${prefix}${path}.lora_B.weight`, zeros([8, rank])],
      ]),
    );
  const alphasIn = (fileOrFolder: string) =>
    tidy(() => Object.fromEntries(readLora(fileOrFolder).layers.map(({ path, alpha }) => [path, alpha])));

  /** A LoRA described in its metadata, as diffusers writes it. */
  const inMetadata = (described: string): string => {
    const file = join(folder, "described.safetensors");
    tidy(() => saveSafetensors(file, tensorsUnder("unet."), { lora_adapter_metadata: described }));
    return file;
  };

  /** The same, described beside it, as PEFT writes it. */
  const inFolder = (described: string, prefix = "base_model.model.", layers: readonly string[] = paths): string => {
    const own = temporaryFolder();
    tidy(() => saveSafetensors(join(own, "adapter_model.safetensors"), tensorsUnder(prefix, layers)));
    writeFileSync(join(own, "adapter_config.json"), described);
    return own;
  };

  const sources: readonly (readonly [name: string, describe: (described: object) => string])[] = [
    [
      "metadata",
      (described) =>
        inMetadata(JSON.stringify(Object.fromEntries(Object.entries(described).map(([k, v]) => [`unet.${k}`, v])))),
    ],
    ["adapter_config.json", (described) => inFolder(JSON.stringify(described))],
  ];
  for (const [name, file] of sources) {
    test(`${name}: alpha, its exceptions, and the scale of rank-stabilised LoRA`, () => {
      const alphas = (described: object) => Object.values(alphasIn(file(described)));
      assert.deepEqual(alphas({ r: rank, lora_alpha: 8 }), [8, 8]);
      assert.deepEqual(alphas({ lora_alpha: 8, alpha_pattern: { "^mid_block\\.attentions.0.proj_in": 3 } }), [8, 3]);
      assert.deepEqual(alphas({ lora_alpha: 8, alpha_pattern: { proj_in: 2 }, use_rslora: true }), [4, 4]);
      assert.deepEqual(alphas({ r: rank }), [rank, rank]);
    });

    test(`${name}: what is not honoured is refused`, () => {
      assert.throws(() => alphasIn(file({ use_dora: true })), /Expected false for (unet\.)?use_dora but received true/);
      assert.throws(() => alphasIn(file({ lora_alpha: "8" })), /Expected a number for .*lora_alpha but received "8"/);
      assert.throws(() => alphasIn(file({ alpha_pattern: 8 })), /Expected layers and .*alpha_pattern but received 8/);
      assert.throws(
        () => alphasIn(file({ lora_alpha: 8, alpha_pattern: { ".*proj": 2 } })),
        /Expected names of layers for .*alpha_pattern but received "\.\*proj"/,
      );
    });
  }

  test("that is missing", () => {
    const own = inFolder("{}");
    rmSync(join(own, "adapter_config.json"));
    assert.throws(() => alphasIn(own), /Expected adapter_config\.json, which holds alpha, beside it but received none/);
    const listed = ["README.md", "adapter_config.json", "adapter_model.safetensors"];
    const needed = neededFiles("someone/lora", listed, { purpose: "weights" });
    assert.deepEqual(needed, ["adapter_model.safetensors", "adapter_config.json"]);
  });

  test("that is no JSON object", () => {
    assert.throws(
      () => alphasIn(inMetadata("null")),
      /described\.safetensors: lora_adapter_metadata: Expected a JSON object but received null/,
    );
    assert.throws(() => alphasIn(inFolder("{")), /adapter_config\.json: Expected JSON but received: /);
    assert.throws(() => alphasIn(inFolder("[]")), /adapter_config\.json: Expected a JSON object but received \[\]/);
  });

  test("a text encoder's own folder is known by its layers", () => {
    const path = "text_model.encoder.layers.0.self_attn.q_proj";
    const described = inFolder(JSON.stringify({ lora_alpha: 1 }), "base_model.model.", [path]);
    const [layer] = tidy(() => readLora(described).layers.map(({ part, path, alpha }) => ({ part, path, alpha })));
    assert.deepEqual(layer, { part: "text_encoder", path, alpha: 1 });
  });
});
