/**
 * LoRA files of Stable Diffusion 3 in kohya's format: every layer held against the original's weights, merged by hand, and
 * what becomes of queries, keys and values that share one pair of matrices.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { convertLora, loadLora, LoraAdapter, readLora, writeLora, type LoraLayer } from "../src/lora/index.js";
import { StableDiffusion3Pipeline } from "../src/pipeline/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { Generator, liveTensors, noGrad, randn, tensor, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { b2 } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { assertClose, outputTolerance } from "./support/golden.js";

const folder = temporaryFolder();
const at = (name: string): string => join(folder, name);
const model = join(fixtures, "sd3");
const golden = join(model, "lora", "pytorch_lora_weights.safetensors");
const options = { maxSequenceLength: 8 };
const pipeline = StableDiffusion3Pipeline.fromPretrained(model, {}, options);
const original = at("original.safetensors");
pipeline.saveSingleFile(original);
after(() => {
  pipeline.dispose();
});

/** What a model makes of a prompt, text encoders included. */
function outputOf(of: StableDiffusion3Pipeline): Tensor {
  return noGrad(() => {
    const x = randn([1, ...of.latentShape({ height: 16, width: 24 })], { generator: new Generator(0) });
    return of.predict(x, 500, of.condition(of.encodePrompts(["a cat riding a bike"])));
  });
}

/** The model with a LoRA of a file, and afterwards without it. */
function outputWith(file: string): Tensor {
  const adapters = loadLora(pipeline.adaptable, file);
  const output = outputOf(pipeline);
  for (const adapter of adapters) adapter.dispose();
  return output;
}

/** A small file in kohya's format: `name` with A, B and alpha. */
type Pairs = Readonly<Record<string, readonly [a: Tensor, b: Tensor, alpha: number]>>;
function saveKohya(file: string, pairs: Pairs): void {
  const tensors = Object.entries(pairs).flatMap(([name, [a, b, alpha]]): [string, Tensor][] => [
    [`${name}.lora_down.weight`, a],
    [`${name}.lora_up.weight`, b],
    [`${name}.alpha`, tensor(alpha)],
  ]);
  saveSafetensors(file, new Map(tensors));
}

/** What kohya's names begin with, in front of the original's keys. */
const PREFIXES: readonly (readonly [original: string, kohya: string])[] = [
  ["model.diffusion_model.", "lora_unet_"],
  ["text_encoders.clip_l.transformer.", "lora_te1_"],
  ["text_encoders.clip_g.transformer.", "lora_te2_"],
  ["text_encoders.t5xxl.transformer.", "lora_te3_"],
];

test("every linear layer and the patches, of the transformer and three text encoders, from kohya's names", () => {
  const [generator, rank, alpha] = [new Generator(3), 2, 3];
  const [merged, lora] = [at("merged.safetensors"), at("kohya.safetensors")];
  tidy(() => {
    const pairs: Record<string, [Tensor, Tensor, number]> = {};
    const weights = loadSafetensors(original);
    for (const [key, weight] of weights) {
      const [prefix, kohya] = PREFIXES.find(([prefix]) => key.startsWith(prefix)) ?? [];
      const [outputs, inputs, ...kernel] = weight.shape;
      if (prefix === undefined || !key.endsWith(".weight") || inputs === undefined) continue;
      if (/embedding\.|shared|relative_attention_bias/.test(key)) continue; // tables
      const a = randn([rank, inputs, ...kernel], { generator }).mul(0.1);
      const b = randn([outputs!, rank], { generator }).mul(0.1);
      const name = kohya! + key.slice(prefix.length, -".weight".length).replaceAll(".", "_");
      pairs[name] = [a, b.reshape([outputs!, rank, ...kernel.map(() => 1)]), alpha];
      weights.set(key, weight.add(b.matmul(a.flatten(1)).mul(alpha / rank).reshape(weight.shape))); // prettier-ignore
    }
    saveKohya(lora, pairs);
    saveSafetensors(merged, weights, readHeader(original).metadata);
    for (const name of [
      "lora_unet_joint_blocks_0_x_block_attn_qkv",
      "lora_unet_joint_blocks_1_x_block_attn2_qkv",
      "lora_unet_joint_blocks_2_context_block_adaLN_modulation_1",
      "lora_unet_joint_blocks_0_context_block_mlp_fc1",
      "lora_unet_final_layer_adaLN_modulation_1",
      "lora_unet_x_embedder_proj",
      "lora_unet_context_embedder",
      "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
      "lora_te3_encoder_block_0_layer_1_DenseReluDense_wi_0",
    ]) {
      assert(name in pairs, name);
    }
    const byHand = StableDiffusion3Pipeline.fromPretrained(merged, { config: model }, options);
    const expected = outputOf(byHand);
    byHand.dispose();
    assertClose(outputWith(lora), expected, outputTolerance, "with a LoRA on everything");
    assert(outputOf(pipeline).sub(expected).abs().amax().item() > 0.01);
  });
});

test("a file trained as one is split, with A shared, and joined again to the bit", () => {
  const [peft, back] = [at("peft.safetensors"), at("back.safetensors")];
  convertLora(at("kohya.safetensors"), peft, { form: "peft" });
  convertLora(peft, back, { form: "kohya" });
  tidy(() => {
    const [written, read, split] = [back, at("kohya.safetensors"), peft].map((file) => loadSafetensors(file));
    assert.deepEqual([...written!.keys()].sort(), [...read!.keys()].sort());
    for (const [key, value] of read!) assert(value.equal(written!.get(key)!), key);
    const of = (name: string): Tensor => split!.get(`transformer.transformer_blocks.0.attn.${name}.weight`)!;
    assert(of("to_q.lora_A").equal(of("to_v.lora_A")));
    const joint = read!.get("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight")!;
    assert(of("to_k.lora_B").equal(joint.narrow(0, 32, 32)));
  });
  const { metadata } = readHeader(back);
  assert.deepEqual([metadata["ss_network_module"], metadata["ss_base_model_version"]], ["networks.lora_sd3", "sd3"]);
});

test("three adapters are joined at three times the rank and alpha, and fall apart to the bit, on the command line", async () => {
  const [kohya, back] = [at("golden-kohya.safetensors"), at("golden-back.safetensors")];
  for (const [from, to, form] of [
    [golden, kohya, "kohya"],
    [kohya, back, "peft"],
  ] as const) {
    const { code, stderr } = await b2("convert", from, to, "--form", form);
    assert.equal(code, 0, stderr);
  }
  tidy(() => {
    const [joined, written, read] = [kohya, back, golden].map((file) => loadSafetensors(file));
    const name = "lora_unet_joint_blocks_1_context_block_attn_qkv";
    assert.deepEqual(joined!.get(`${name}.lora_down.weight`)!.shape, [12, 32]);
    assert.equal(joined!.get(`${name}.alpha`)!.item(), 12);
    assert.equal(joined!.get("lora_unet_joint_blocks_1_x_block_attn_proj.alpha")!.item(), 4);
    assert.deepEqual([...written!.keys()].sort(), [...read!.keys()].sort());
    for (const [key, value] of read!) assert(value.equal(written!.get(key)!), key);
    assert(outputWith(kohya).equal(outputWith(golden)));
  });
});

test("adapters of their own rank and alpha, and some that are not there, are joined to the same product", () => {
  const generator = new Generator(4);
  const [peft, kohya, back] = [at("odd-peft.safetensors"), at("odd-kohya.safetensors"), at("odd-back.safetensors")];
  tidy(() => {
    const layer = (path: string, rank: number, alpha: number): LoraLayer => {
      const [a, b] = [randn([rank, 32], { generator }), randn([32, rank], { generator })];
      return { part: "transformer", path: `transformer_blocks.0.${path}`, a, b, alpha };
    };
    const layers = [
      ...[layer("attn.to_q", 2, 2), layer("attn.to_k", 3, 1), layer("attn.to_v", 1, 0)],
      ...[layer("attn2.to_v", 3, 1.5), layer("attn.add_q_proj", 2, 8), layer("attn.add_v_proj", 5, 20)],
    ];
    writeLora(peft, layers);
    writeLora(kohya, layers, { form: "kohya" });
    assert.deepEqual(
      Object.fromEntries(
        [...readHeader(kohya).tensors].map(([key, { shape }]) => [key.replace("lora_unet_joint_blocks_0_", ""), shape]),
      ),
      {
        ...{ "x_block_attn_qkv.lora_down.weight": [6, 32], "x_block_attn_qkv.lora_up.weight": [96, 6] },
        ...{ "x_block_attn2_qkv.lora_down.weight": [3, 32], "x_block_attn2_qkv.lora_up.weight": [96, 3] },
        ...{ "context_block_attn_qkv.lora_down.weight": [7, 32], "context_block_attn_qkv.lora_up.weight": [96, 7] },
        ...{ "x_block_attn_qkv.alpha": [], "x_block_attn2_qkv.alpha": [], "context_block_attn_qkv.alpha": [] },
      },
    );
    assertClose(outputWith(kohya), outputWith(peft), outputTolerance, "the same product");
    convertLora(kohya, back, { form: "peft" });
    const read = new Map(readLora(back).layers.map((own) => [own.path, own]));
    // What has no effect is left out: values with an alpha of 0.
    assert.deepEqual([...read.keys()].sort(), layers.map(({ path }) => path).filter((path) => !path.endsWith("attn.to_v")).sort()); // prettier-ignore
    const text = layers[5]!;
    assert(read.get(text.path)!.b.equal(text.b) && read.get(text.path)!.alpha === text.alpha);
  });
});

test("the names of OneTrainer: diffusers' paths behind lora_transformer", () => {
  const file = at("onetrainer.safetensors");
  tidy(() => {
    saveKohya(file, {
      lora_transformer_transformer_blocks_0_attn_add_q_proj: [zeros([2, 32]), zeros([32, 2]), 1],
      lora_transformer_transformer_blocks_2_norm1_context_linear: [zeros([2, 32]), zeros([64, 2]), 1],
      lora_transformer_time_text_embed_timestep_embedder_linear_1: [zeros([2, 256]), zeros([32, 2]), 1],
    });
    const adapters = loadLora(pipeline.adaptable, file);
    assert.deepEqual(
      adapters.flatMap((adapter) => adapter.layers().map(({ path }) => path)),
      [
        "transformer_blocks.0.attn.add_q_proj",
        "time_text_embed.timestep_embedder.linear_1",
        "transformer_blocks.2.norm1_context.linear",
      ].sort(),
    );
    for (const adapter of adapters) adapter.dispose();
  });
});

test("a fresh adapter, of which nothing has an effect yet, stays whole", () => {
  const file = at("fresh.safetensors");
  const adapter = LoraAdapter.inject(pipeline.transformer, {
    ...{ generator: new Generator(5), rank: 2, part: "transformer", targetModules: ["attn.to_q", "attn.to_k"] },
  });
  adapter.save(file, { form: "kohya" });
  adapter.dispose();
  tidy(() => {
    const { layers } = readLora(file);
    assert.deepEqual([layers.length, layers[0]!.a.size(0)], [9, 4]);
  });
});

test("what cannot be divided or joined is named, and nothing stays in memory", () => {
  const file = at("broken.safetensors");
  const joint = "lora_unet_joint_blocks_0_x_block_attn_qkv";
  const before = liveTensors();
  const cases: readonly (readonly [pairs: () => Pairs, message: RegExp])[] = [
    [
      () => ({ [joint]: [zeros([2, 32]), zeros([95, 2]), 1] }),
      /broken\.safetensors: Expected outputs of queries, keys and values, a multiple of 3, for joint_blocks\.0\.x_block\.attn\.qkv but received 95/,
    ],
    [
      () => ({ [joint]: [zeros([2, 32]), zeros([99, 2]), 1] }),
      /transformer_blocks\.0\.attn\.to_q\.lora_B: Expected \[32, 2\] but received \[33, 2\]/,
    ],
    [
      () => ({
        [joint]: [zeros([2, 32]), zeros([96, 2]), 1],
        lora_transformer_transformer_blocks_0_attn_to_k: [zeros([2, 32]), zeros([32, 2]), 1],
      }),
      /Expected one pair of matrices for transformer\.transformer_blocks\.0\.attn\.to_k but received two/,
    ],
    [
      () => ({ lora_unet_joint_blocks_0_x_block_mlp_qkv: [zeros([2, 32]), zeros([96, 2]), 1] }),
      /Expected a key such as unet/,
    ],
    [
      () => ({ lora_unet_joint_blocks_7_x_block_attn_qkv: [zeros([2, 32]), zeros([96, 2]), 1] }),
      /transformer_blocks\.7\.attn\.to_q: Expected a linear layer or a convolution but the model has no such layer/,
    ],
  ];
  for (const [pairs, message] of cases) {
    tidy(() => saveKohya(file, pairs()));
    assert.throws(() => loadLora(pipeline.adaptable, file), message);
  }
  tidy(() => {
    const layer = (path: string, width: number): LoraLayer => {
      const [a, b] = [zeros([2, width]), zeros([width, 2])];
      return { part: "transformer", path: `transformer_blocks.0.attn.${path}`, a, b, alpha: 2 };
    };
    assert.throws(
      () => writeLora(file, [layer("to_q", 32), layer("to_v", 16)], { form: "kohya" }),
      /broken\.safetensors: Expected 32 inputs and 32 outputs, as transformer_blocks\.0\.attn\.to_q has, but received 16 and 16 for transformer_blocks\.0\.attn\.to_v/,
    );
  });
  assert.equal(liveTensors(), before);
});
