/**
 * Stable Diffusion 3 in one file: written and read back to the bit, its tensors held against the folder's own by hand, what
 * a file may lack, configs from its shapes, and what is refused.
 */
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { after, describe, test } from "node:test";
import { neededFiles } from "../src/hub/files.js";
import {
  AutoencoderKL,
  CLIPTextModelWithProjection,
  SD3Transformer2DModel,
  T5EncoderModel,
  type SD3TransformerConfigInput,
} from "../src/models/index.js";
import { familyOf, openModel, StableDiffusion3Pipeline, StableDiffusionPipeline } from "../src/pipeline/index.js";
import type { TensorEntry } from "../src/safetensors/header.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { writeRaw } from "../src/safetensors/write.js";
import { saveSD3SingleFile, SD3SingleFile } from "../src/single-file/index.js";
import { Shapes } from "../src/single-file/infer.js";
import { inferSD3Transformer, inferT5 } from "../src/single-file/sd3-infer.js";
import { cat, Generator, liveTensors, noGrad, randn, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { b2, warmB2, type Outcome } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { publishedFlowModels } from "./support/published-configs.js";

const folder = temporaryFolder();
const at = (name: string): string => join(folder, name);
const [medium35, medium3] = [join(fixtures, "sd3"), at("of-3.0")];
const options = { maxSequenceLength: 8 };

/** A folder of Stable Diffusion 3.0's kind: no norm of queries and keys, one attention a block. */
cpSync(medium35, medium3, { recursive: true });
const plain = SD3Transformer2DModel.fromConfig(
  { ...SD3Transformer2DModel.readConfig(join(medium35, "transformer")), qk_norm: null, dual_attention_layers: [] },
  { generator: new Generator(1) },
);
plain.savePretrained(join(medium3, "transformer"));
plain.dispose();

const open = (path: string, config?: string): StableDiffusion3Pipeline =>
  StableDiffusion3Pipeline.fromPretrained(path, config === undefined ? {} : { config }, options);

function assertSame(actual: StableDiffusion3Pipeline, expected: StableDiffusion3Pipeline): void {
  for (const [part, model] of Object.entries(expected.modules)) {
    const [own, other] = [model?.parameters(), actual.modules[part]?.parameters()];
    assert.deepEqual([...(other?.keys() ?? [])], [...(own?.keys() ?? [])], part);
    for (const [key, tensor] of own ?? []) assert(tensor.equal(other!.get(key)!), `${part}.${key}`);
  }
  assert.deepEqual(actual.scheduler.toConfig(), expected.scheduler.toConfig());
  tidy(() =>
    noGrad(() => {
      const x = randn([1, ...expected.latentShape({ height: 16, width: 24 })], { generator: new Generator(0) });
      const predict = (model: StableDiffusion3Pipeline) =>
        model.predict(x, 500, model.condition(model.encodePrompts(["a cat riding a bike"])));
      assert(predict(actual).equal(predict(expected)), "predictions");
      assert(actual.decode(x).equal(expected.decode(x)), "pictures");
    }),
  );
}

/** Copies a file with changed tensors, its metadata kept. */
function alter(from: string, to: string, change: (tensors: Map<string, Tensor>) => void): void {
  tidy(() => {
    const tensors = loadSafetensors(from);
    change(tensors);
    saveSafetensors(to, tensors, readHeader(from).metadata);
  });
}

const without =
  (...prefixes: readonly string[]) =>
  (tensors: Map<string, Tensor>): void => {
    for (const key of tensors.keys()) if (prefixes.some((prefix) => key.startsWith(prefix))) tensors.delete(key);
  };

for (const [kind, model] of [
  ["3.5", medium35],
  ["3.0", medium3],
] as const) {
  describe(`single file of Stable Diffusion ${kind}`, () => {
    const file = at(`${kind}.safetensors`);
    const pipeline = open(model);
    pipeline.saveSingleFile(file);
    after(() => {
      pipeline.dispose();
    });
    const reads = (path: string, config = model, expected = pipeline): void => {
      const read = open(path, config);
      assertSame(read, expected);
      read.dispose();
    };

    test("is recognised, and read as it was written, to the bit", () => {
      assert.equal(familyOf(file).name, "stable-diffusion-3");
      reads(file);
    });

    test("the transformer's keys may have no prefix, and others leave keys of no weight in", () => {
      const bare = at("bare.safetensors");
      alter(file, bare, (tensors) => {
        for (const [key, tensor] of [...tensors]) {
          if (!key.startsWith("model.diffusion_model.")) continue;
          tensors.delete(key);
          tensors.set(key.replace("model.diffusion_model.", ""), tensor);
        }
        tensors.set("text_encoders.clip_l.logit_scale", zeros([]));
        tensors.set("text_encoders.t5xxl.transformer.encoder.embed_tokens.weight", zeros([1, 1]));
      });
      reads(bare);
    });

    test("has the original's tensors: joint queries, keys and values, and the last shifts before the scales", () => {
      tidy(() => {
        const [stored, own] = [loadSafetensors(file), new Map(pipeline.transformer.parameters())];
        const same = (key: string, expected: Tensor): void => {
          assert(stored.get(`model.diffusion_model.${key}`)?.equal(expected), key);
        };
        const of = (...names: readonly string[]): Tensor => cat(names.map((name) => own.get(name)!));
        const swapped = (name: string): Tensor => cat(own.get(name)!.chunk(2).toReversed());
        for (const end of ["weight", "bias"]) {
          for (const block of [0, 1, 2]) {
            const [from, to] = [`transformer_blocks.${block}`, `joint_blocks.${block}`];
            const joint = (names: readonly string[]) => of(...names.map((name) => `${from}.${name}.${end}`));
            same(`${to}.x_block.attn.qkv.${end}`, joint(["attn.to_q", "attn.to_k", "attn.to_v"]));
            const text = joint(["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"]);
            same(`${to}.context_block.attn.qkv.${end}`, text);
            if (kind === "3.5" && block < 2)
              same(`${to}.x_block.attn2.qkv.${end}`, joint(["attn2.to_q", "attn2.to_k", "attn2.to_v"]));
            same(`${to}.x_block.adaLN_modulation.1.${end}`, of(`${from}.norm1.linear.${end}`));
            same(`${to}.x_block.mlp.fc2.${end}`, of(`${from}.ff.net.2.${end}`));
            const norm = `${from}.norm1_context.linear.${end}`;
            same(`${to}.context_block.adaLN_modulation.1.${end}`, block === 2 ? swapped(norm) : of(norm));
          }
          same(`joint_blocks.1.context_block.attn.proj.${end}`, of(`transformer_blocks.1.attn.to_add_out.${end}`));
          same(`final_layer.adaLN_modulation.1.${end}`, swapped(`norm_out.linear.${end}`));
          same(`final_layer.linear.${end}`, of(`proj_out.${end}`));
          same(`y_embedder.mlp.2.${end}`, of(`time_text_embed.text_embedder.linear_2.${end}`));
          same(`x_embedder.proj.${end}`, of(`pos_embed.proj.${end}`));
        }
        same("pos_embed", of("pos_embed.pos_embed"));
        const last = "model.diffusion_model.joint_blocks.2.context_block.";
        assert.deepEqual(
          [...new Set([...stored.keys()].filter((key) => key.startsWith(last)).map((key) => key.split(".")[5]))].sort(),
          ["adaLN_modulation", "attn"],
        );
        for (const key of [
          "first_stage_model.decoder.up.0.block.0.conv1.weight",
          "first_stage_model.encoder.mid.attn_1.q.weight",
          "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.weight",
          "text_encoders.clip_g.transformer.text_projection.weight",
          "text_encoders.t5xxl.transformer.shared.weight",
          "text_encoders.t5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
        ]) {
          assert(stored.has(key), key);
        }
      });
    });

    test("a file without parts: all text encoders and the VAE come from the folder, some are enough", () => {
      const lacking = at("lacking.safetensors");
      alter(file, lacking, without("text_encoders.", "first_stage_model."));
      reads(lacking);
      mkdirSync(at("tokenizers"), { recursive: true });
      assert.throws(
        () => open(lacking, at("tokenizers")),
        /Expected text_encoder, text_encoder_2, text_encoder_3 and vae in the file, or in a diffusers folder for config/,
      );
      alter(file, lacking, without("text_encoders.t5xxl.", "text_encoders.clip_l.transformer.text_projection."));
      const read = open(lacking, model);
      assert.deepEqual(
        [read.modules["text_encoder_3"], read.modules["text_encoder"] === undefined],
        [undefined, false],
      );
      const projection = read.modules["text_encoder"]!.parameters().get("text_projection.weight")!;
      assert.deepEqual(projection.select(0, 1).toArray().slice(0, 3), [0, 1, 0]); // the identity
      read.dispose();
    });

    test("the folder's index may name the VAE of another folder, whose config counts, and whose weights where there are none", () => {
      const [shared, lacking] = [at(`${kind}-shared`), at("lacking.safetensors")];
      cpSync(model, shared, { recursive: true });
      rmSync(join(shared, "vae"), { recursive: true });
      const indexFile = join(shared, "model_index.json");
      const place = { pretrained_model_name_or_path: relative(shared, model), subfolder: "vae" };
      const index = JSON.parse(readFileSync(indexFile, "utf8")) as object;
      writeFileSync(indexFile, JSON.stringify({ ...index, vae: ["diffusers", "AutoencoderKL", place] }));
      reads(file, shared);
      alter(file, lacking, without("first_stage_model."));
      reads(lacking, shared);
    });

    test("what is wrong is named, and nothing stays in memory", () => {
      const [before, broken] = [liveTensors(), at("broken.safetensors")];
      const load = () => open(broken, model);
      alter(file, broken, (tensors) => {
        tensors.delete("model.diffusion_model.joint_blocks.1.x_block.attn.qkv.weight");
        tensors.set("model.diffusion_model.joint_blocks.2.x_block.mlp.fc1.bias", zeros([3]));
        tensors.set("model.diffusion_model.joint_blocks.0.more", zeros([1]));
      });
      assert.throws(load, (error: Error) => {
        assert.match(error.message, /broken\.safetensors.*differ/s);
        assert.match(
          error.message,
          /joint_blocks\.1\.x_block\.attn\.qkv\.weight: Expected \[96, 32\] but received nothing/,
        );
        assert.match(error.message, /joint_blocks\.2\.x_block\.mlp\.fc1\.bias: Expected \[128\] but received \[3\]/);
        assert.match(error.message, /joint_blocks\.0\.more: Expected no such key/);
        return true;
      });
      alter(file, broken, (tensors) => tensors.set("control_model.x", zeros([1])));
      assert.throws(load, /Expected no key of another part but received control_model\.x: this is a ControlNet/);
      alter(file, broken, (tensors) => tensors.set("first_stage_model.decoder.conv_out.bias", zeros([3]).log()));
      assert.throws(
        load,
        /first_stage_model\.decoder\.conv_out\.bias: Expected finite numbers but received NaN or infinity/,
      );
      assert.throws(() => open(file), /Expected the model's diffusers folder, or one with its tokenizers, for config/);
      assert.throws(
        () => StableDiffusionPipeline.fromPretrained(file, { config: model }),
        /Stable Diffusion 3: load it/,
      );
      assert.equal(liveTensors(), before);
    });
  });
}

test("weights in 8 bits are refused in one sentence", () => {
  const file = at("eight.safetensors");
  const key = "text_encoders.t5xxl.transformer.shared.weight";
  const bytes = () => new Uint8Array(4);
  writeRaw(
    file,
    new Map([
      ["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.bias", { dtype: "F32", shape: [1], bytes }],
      [key, { dtype: "F8_E4M3", shape: [2, 2], bytes }],
    ]),
  );
  assert.throws(
    () => openModel(file, { config: medium35 }),
    /eight\.safetensors: Expected weights in float32, float16 or bfloat16 but received F8_E4M3 for 1 of 2 tensors, such as \S+shared\.weight/,
  );
});

/** Models whose configs can be told from shapes: heads of 64 channels, groups of 32. */
describe("a single file of Stable Diffusion 3 without configs", () => {
  const generator = new Generator(2);
  const clip = { hidden_size: 64, intermediate_size: 96, num_attention_heads: 1, vocab_size: 40, eos_token_id: 2 };
  const vae = AutoencoderKL.fromConfig(
    {
      block_out_channels: [32, 32, 64],
      down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
      up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
      latent_channels: 4,
      layers_per_block: 1,
      sample_size: 1024,
      scaling_factor: 1.5305,
      shift_factor: 0.0609,
      use_quant_conv: false,
      use_post_quant_conv: false,
    },
    { generator },
  );
  const textEncoder = CLIPTextModelWithProjection.fromConfig(
    { ...clip, projection_dim: 64, num_hidden_layers: 2 },
    { generator },
  );
  const textEncoder2 = CLIPTextModelWithProjection.fromConfig(
    { ...clip, projection_dim: 48, num_hidden_layers: 3, hidden_act: "gelu" },
    { generator },
  );
  const textEncoder3 = T5EncoderModel.fromConfig(
    { vocab_size: 50, d_model: 160, d_kv: 12, d_ff: 70, num_layers: 2, num_heads: 3, feed_forward_proj: "gated-gelu" },
    { generator },
  );
  const common: SD3TransformerConfigInput = {
    num_attention_heads: 2,
    caption_projection_dim: 128,
    joint_attention_dim: 160,
    pooled_projection_dim: 112,
    pos_embed_max_size: 7,
    num_layers: 3,
    in_channels: 4,
    out_channels: 4,
  };
  const kinds: Readonly<Record<string, SD3TransformerConfigInput>> = {
    "3.0": { ...common, sample_size: 10 },
    "3.5 medium": {
      ...common,
      ...{ attention_head_dim: 32, num_attention_heads: 4, qk_norm: "rms_norm", dual_attention_layers: [0, 1] },
      sample_size: 12,
    },
    "3.5 large, with other patches": { ...common, patch_size: 1, qk_norm: "rms_norm", sample_size: 7 },
  };
  for (const [name, config] of Object.entries(kinds)) {
    test(`has them inferred from its shapes: ${name}`, () => {
      const [file, out] = [at("inferred.safetensors"), { generator }];
      const transformer = SD3Transformer2DModel.fromConfig(config, out);
      saveSD3SingleFile({ transformer, vae, textEncoder, textEncoder2, textEncoder3 }, file);
      const single = new SD3SingleFile(file);
      const read = [
        [single.transformer({}), transformer],
        [single.vae({}), vae],
        [single.clip("text_encoder", {}), textEncoder],
        [single.clip("text_encoder_2", {}), textEncoder2],
        [single.t5({}), textEncoder3],
      ] as const;
      for (const [inferred, own] of read) {
        assert.deepEqual(inferred.config, own.config);
        for (const [key, tensor] of own.parameters()) assert(tensor.equal(inferred.parameters().get(key)!), key);
        inferred.dispose();
      }
      transformer.dispose();
      assert.deepEqual(single.schedulerConfig(), { num_train_timesteps: 1000, shift: 3 });
    });
  }
});

/** Shapes of a file's tensors, as far as configs show in them. */
function shapesOf(tensors: Readonly<Record<string, readonly number[]>>): Shapes {
  const entries = Object.entries(tensors).map(([key, shape]): [string, TensorEntry] => [
    key,
    { dtype: "F16", shape, begin: 0, end: 0 },
  ]);
  return new Shapes({ file: "published", size: 0, modified: 0, metadata: {}, tensors: new Map(entries) });
}

for (const [name, published] of Object.entries(publishedFlowModels)) {
  test(`the config of ${name} is inferred from shapes of its size`, () => {
    const config = SD3Transformer2DModel.layout.parseConfig(published.transformer, name);
    const [width, side] = [config.caption_projection_dim, config.pos_embed_max_size];
    const blocks = Array.from({ length: config.num_layers }, (_, i) => ({
      [`joint_blocks.${i}.x_block.attn.qkv.weight`]: [3 * width, width],
      ...(config.qk_norm !== null && { [`joint_blocks.${i}.x_block.attn.ln_q.weight`]: [64] }),
      ...(config.dual_attention_layers.includes(i) && { [`joint_blocks.${i}.x_block.attn2.proj.bias`]: [width] }),
    }));
    const inferred = inferSD3Transformer(
      shapesOf({
        "x_embedder.proj.weight": [width, 16, 2, 2],
        pos_embed: [1, side ** 2, width],
        "context_embedder.weight": [width, 4096],
        "y_embedder.mlp.0.weight": [width, 2048],
        "final_layer.linear.weight": [64, width],
        ...(Object.assign({}, ...blocks) as Record<string, number[]>),
      }),
    );
    assert.deepEqual(SD3Transformer2DModel.layout.parseConfig(inferred, name), config);

    const block = "encoder.block.0.layer";
    const t5 = inferT5(
      shapesOf({
        "shared.weight": [32128, 4096],
        [`${block}.0.SelfAttention.q.weight`]: [4096, 4096],
        [`${block}.0.SelfAttention.relative_attention_bias.weight`]: [32, 64],
        [`${block}.1.DenseReluDense.wi_0.weight`]: [10240, 4096],
        "encoder.block.23.layer.1.layer_norm.weight": [4096],
      }),
    );
    assert.deepEqual({ ...published.textEncoder3, ...t5 }, published.textEncoder3);
  });
}

test("of a repository on the hub a file takes settings, and the weights that it lacks", () => {
  const [whole, bare] = [at("3.5.safetensors"), at("bare-transformer.safetensors")];
  alter(whole, bare, without("text_encoders.", "first_stage_model."));
  const family = familyOf(whole);
  const layouts = [family.repository!];
  const parts = ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"];
  const paths = parts.flatMap((part) => {
    const stem = part.startsWith("text") ? "model" : "diffusion_pytorch_model";
    return [`${part}/config.json`, `${part}/${stem}.safetensors`];
  });
  const listed = ["model_index.json", "tokenizer_3/tokenizer.json", ...paths];
  const needed = (file: string): string[] => {
    const { path, ...wanted } = family.companion!(file, "someone/model")!;
    assert.equal(path, "someone/model");
    return neededFiles(path, listed, { ...wanted, layouts }).filter((name) => name.endsWith(".safetensors"));
  };
  assert.deepEqual(needed(whole), []);
  assert.deepEqual(needed(bare).sort(), paths.filter((path) => path.endsWith("s") && !path.startsWith("trans")).sort());
  assert.equal(family.companion!(whole, undefined), undefined);
});

test("on the command line: a folder to one file and back, and the same picture from each", async () => {
  const ok = ({ code, stderr }: Outcome): void => {
    assert.equal(code, 0, stderr);
  };
  const [one, back] = [at("one.safetensors"), at("back")];
  ok(await b2("convert", medium35, one));
  ok(await warmB2("convert", one, back, "--model-config", medium35));
  const draw = async (name: string, ...model: readonly string[]): Promise<Buffer> => {
    const set = ["sample.steps=2", "model.height=16", "model.width=16", "model.options.maxSequenceLength=8", ...model];
    ok(await warmB2("generate", "a cat", "--out", at(name), ...set.flatMap((value) => ["--set", value])));
    return readFileSync(
      join(
        at(name),
        readdirSync(at(name)).find((file) => file.endsWith(".png"))!,
      ),
    );
  };
  const picture = await draw("of-folder", `model.path=${back}`);
  assert(picture.equals(await draw("of-file", `model.path=${one}`, `model.config=${medium35}`)));
  const { code, stderr } = await warmB2("convert", one, at("no"));
  assert.equal(code, 2);
  assert.match(stderr, /Expected the model's diffusers folder, or one with its tokenizers, for config/);
});
