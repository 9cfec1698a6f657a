/**
 * Checkpoints of one file in the original layout: written by the project's own writer for each family and read back to
 * the bit, their keys held against a list of the originals' own, and what is refused.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { AutoencoderKL, CLIPTextModel, UNet2DConditionModel } from "../src/models/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { saveSingleFile, SingleFile } from "../src/single-file/index.js";
import { arange, full, Generator, liveTensors, noGrad, randn, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { goldenSets, goldenUNets } from "./support/golden.js";

const folder = temporaryFolder();

/** Keys of the published checkpoints, by family, and what they are in shape: as many dimensions. */
const originalKeys: Record<string, readonly (readonly [key: string, dimensions: number])[]> = {
  sd1: [
    ["model.diffusion_model.time_embed.0.weight", 2],
    ["model.diffusion_model.time_embed.2.bias", 1],
    ["model.diffusion_model.input_blocks.0.0.weight", 4],
    ["model.diffusion_model.input_blocks.1.0.in_layers.0.weight", 1],
    ["model.diffusion_model.input_blocks.1.0.in_layers.2.weight", 4],
    ["model.diffusion_model.input_blocks.1.0.emb_layers.1.weight", 2],
    ["model.diffusion_model.input_blocks.1.0.out_layers.0.bias", 1],
    ["model.diffusion_model.input_blocks.1.0.out_layers.3.weight", 4],
    ["model.diffusion_model.input_blocks.1.1.norm.weight", 1],
    ["model.diffusion_model.input_blocks.1.1.proj_in.weight", 4],
    ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", 2],
    ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias", 1],
    ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight", 2],
    ["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.ff.net.2.weight", 2],
    ["model.diffusion_model.input_blocks.3.0.op.weight", 4],
    ["model.diffusion_model.input_blocks.4.0.skip_connection.weight", 4],
    ["model.diffusion_model.input_blocks.11.0.out_layers.3.bias", 1],
    ["model.diffusion_model.middle_block.0.in_layers.2.weight", 4],
    ["model.diffusion_model.middle_block.1.proj_out.weight", 4],
    ["model.diffusion_model.middle_block.2.out_layers.3.weight", 4],
    ["model.diffusion_model.output_blocks.2.1.conv.weight", 4],
    ["model.diffusion_model.output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight", 2],
    ["model.diffusion_model.output_blocks.5.2.conv.weight", 4],
    ["model.diffusion_model.output_blocks.8.2.conv.bias", 1],
    ["model.diffusion_model.output_blocks.11.0.skip_connection.weight", 4],
    ["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 1],
    ["model.diffusion_model.out.0.weight", 1],
    ["model.diffusion_model.out.2.weight", 4],
    ["first_stage_model.encoder.conv_in.weight", 4],
    ["first_stage_model.encoder.down.0.block.0.norm1.weight", 1],
    ["first_stage_model.encoder.down.0.downsample.conv.weight", 4],
    ["first_stage_model.encoder.down.1.block.0.nin_shortcut.weight", 4],
    ["first_stage_model.encoder.mid.block_1.conv1.weight", 4],
    ["first_stage_model.encoder.mid.attn_1.norm.weight", 1],
    ["first_stage_model.encoder.mid.attn_1.q.weight", 4],
    ["first_stage_model.encoder.mid.attn_1.proj_out.bias", 1],
    ["first_stage_model.encoder.mid.block_2.norm2.bias", 1],
    ["first_stage_model.encoder.norm_out.weight", 1],
    ["first_stage_model.quant_conv.weight", 4],
    ["first_stage_model.post_quant_conv.bias", 1],
    ["first_stage_model.decoder.mid.attn_1.k.weight", 4],
    ["first_stage_model.decoder.up.0.block.0.conv1.weight", 4],
    ["first_stage_model.decoder.up.1.upsample.conv.weight", 4],
    ["first_stage_model.decoder.conv_out.weight", 4],
    ["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", 2],
    ["cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight", 2],
    ["cond_stage_model.transformer.text_model.final_layer_norm.bias", 1],
  ],
  sd2: [
    ["model.diffusion_model.input_blocks.1.1.proj_in.weight", 2],
    ["model.diffusion_model.output_blocks.5.1.transformer_blocks.0.norm1.bias", 1],
    ["cond_stage_model.model.positional_embedding", 2],
    ["cond_stage_model.model.token_embedding.weight", 2],
    ["cond_stage_model.model.transformer.resblocks.0.ln_1.weight", 1],
    ["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", 2],
    ["cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", 1],
    ["cond_stage_model.model.transformer.resblocks.0.attn.out_proj.weight", 2],
    ["cond_stage_model.model.transformer.resblocks.2.mlp.c_fc.weight", 2],
    ["cond_stage_model.model.transformer.resblocks.2.mlp.c_proj.bias", 1],
    ["cond_stage_model.model.ln_final.weight", 1],
  ],
  sdxl: [
    ["model.diffusion_model.label_emb.0.0.weight", 2],
    ["model.diffusion_model.label_emb.0.2.bias", 1],
    ["model.diffusion_model.input_blocks.4.1.proj_in.weight", 2],
    ["model.diffusion_model.output_blocks.2.2.conv.weight", 4],
    ["model.diffusion_model.output_blocks.5.2.conv.weight", 4],
    ["conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight", 2],
    ["conditioner.embedders.1.model.text_projection", 2],
    ["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight", 2],
    ["conditioner.embedders.1.model.ln_final.bias", 1],
  ],
};

const families = goldenUNets("model_index.json").map((set) => ({ name: set.name, path: set.folder }));

/** Keys that training, trainers and ComfyUI leave in such files, and that say nothing of the model. */
const leftovers: Record<string, readonly string[]> = {
  sd1: [
    "betas",
    "alphas_cumprod_prev",
    "posterior_mean_coef1",
    "model_ema.decay",
    "model_ema.diffusion_modelout2bias",
    "cond_stage_model.logit_scale",
    "cond_stage_model.text_projection",
    "first_stage_model.loss.logvar",
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "cond_stage_model.transformer.text_projection.weight",
  ],
  sd2: [
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "first_stage_model.model_ema.decay",
    "cond_stage_model.model.logit_scale",
    "cond_stage_model.model.attn_mask",
  ],
  sdxl: [
    "denoiser.sigmas",
    "conditioner.embedders.0.logit_scale",
    "conditioner.embedders.0.text_projection",
    "conditioner.embedders.1.model.logit_scale",
    "conditioner.embedders.1.logit_scale",
    "conditioner.embedders.0.transformer.text_model.embeddings.position_ids",
    "conditioner.embedders.1.model.transformer.text_model.embeddings.position_ids",
  ],
};

const partsOf = ({ unet, vae, textEncoder, textEncoder2 }: StableDiffusionPipeline) => ({
  unet,
  vae,
  textEncoder,
  ...(textEncoder2 && { textEncoder2 }),
});

/** Every parameter under the part's name and its own, without transformers' `text_model` that a folder may leave out. */
function parametersOf(pipeline: StableDiffusionPipeline): Map<string, Tensor> {
  const all = Object.entries(partsOf(pipeline)).flatMap(([part, model]) =>
    [...model.parameters()].map(([key, tensor]) => [`${part}.${key.replace(/^text_model\./, "")}`, tensor] as const),
  );
  return new Map(all);
}

function assertSame(actual: StableDiffusionPipeline, expected: StableDiffusionPipeline): void {
  const [a, e] = [parametersOf(actual), parametersOf(expected)];
  assert.deepEqual([...a.keys()].sort(), [...e.keys()].sort());
  for (const [key, tensor] of e) assert(tensor.equal(a.get(key)!), key);
  assert.deepEqual(actual.scheduler.toConfig(), expected.scheduler.toConfig());
  tidy(() =>
    noGrad(() => {
      const x = randn([1, ...expected.latentShape({ height: 64, width: 64 })], { generator: new Generator(0) });
      const predict = (pipeline: StableDiffusionPipeline) =>
        pipeline.predict(x, 500, pipeline.condition(pipeline.encodePrompts(["a cat riding a bike"])));
      assert(predict(actual).equal(predict(expected)), "predictions");
    }),
  );
}

for (const { name, path } of families) {
  describe(`single file, ${name}`, () => {
    const file = join(folder, `${name}.safetensors`);
    const pipeline = StableDiffusionPipeline.fromPretrained(path);
    pipeline.saveSingleFile(file);

    test("reads what it wrote, to the bit", () => {
      const read = StableDiffusionPipeline.fromPretrained(file, { config: path });
      assertSame(read, pipeline);
      read.dispose();
    });

    test("passes over what others leave in", () => {
      const full = join(folder, `${name}-leftovers.safetensors`);
      tidy(() => {
        const tensors = loadSafetensors(file);
        for (const key of leftovers[name] ?? []) tensors.set(key, arange(0, 77)); // int64, as position_ids are
        saveSafetensors(full, tensors, readHeader(file).metadata);
      });
      const read = StableDiffusionPipeline.fromPretrained(full, { config: path });
      assertSame(read, pipeline);
      read.dispose();
    });

    test("has the original's keys", () => {
      const { tensors } = readHeader(file);
      for (const [key, dimensions] of originalKeys[name] ?? []) {
        assert.equal(tensors.get(key)?.shape.length, dimensions, key);
      }
    });

    test("a diffusers folder of it is the one it came from", () => {
      const again = join(folder, `${name}-folder`);
      const read = StableDiffusionPipeline.fromPretrained(file, { config: path });
      read.savePretrained(again);
      read.dispose();
      const converted = StableDiffusionPipeline.fromPretrained(again);
      assertSame(converted, pipeline);
      converted.dispose();
      assert.throws(() => pipeline.savePretrained(again), /Expected an empty or new folder/);
    });

    test("what is wrong is named, and nothing stays in memory", () => {
      const before = liveTensors();
      const broken = join(folder, `${name}-broken.safetensors`);
      const [first, second] = [
        "model.diffusion_model.out.2.weight",
        "first_stage_model.decoder.conv_out.bias",
      ] as const;
      const alter = (change: (tensors: Map<string, Tensor>) => void) =>
        tidy(() => {
          const tensors = loadSafetensors(file);
          change(tensors);
          saveSafetensors(broken, tensors);
        });
      alter((tensors) => {
        tensors.set(first, zeros([1, ...tensors.get(first)!.shape.slice(1)]));
        tensors.delete("model.diffusion_model.out.2.bias");
        tensors.set("model.diffusion_model.more", zeros([1]));
      });
      const load = () => StableDiffusionPipeline.fromPretrained(broken, { config: path });
      assert.throws(load, (error: Error) => {
        assert.match(error.message, new RegExp(`${broken}.*3 that differ`, "s"));
        assert.match(error.message, /out\.2\.weight: Expected \[4, .*\] but received \[1, /);
        assert.match(error.message, /out\.2\.bias: Expected \[4\] but received nothing/);
        assert.match(error.message, /model\.diffusion_model\.more: Expected no such key/);
        return true;
      });
      // The VAE comes last: by then all other parts are loaded.
      alter((tensors) => tensors.set(second, full(tensors.get(second)!.shape, NaN)));
      assert.throws(load, /first_stage_model\.decoder\.conv_out\.bias: Expected finite numbers but received NaN/);
      const whole = readFileSync(file);
      writeFileSync(broken, whole.subarray(0, whole.length - 100));
      assert.throws(load, new RegExp(`${broken}: .*Expected`));
      assert.equal(liveTensors(), before);
    });
  });
}

test("SD 2 leaves the last layer of a whole OpenCLIP out, and its projection", () => {
  const { path } = families.find(({ name }) => name === "sd2")!;
  const pipeline = StableDiffusionPipeline.fromPretrained(path);
  const file = join(folder, "whole-openclip.safetensors");
  pipeline.saveSingleFile(file);
  const layers = pipeline.textEncoder.config.num_hidden_layers;
  const layer = (i: number): string => `cond_stage_model.model.transformer.resblocks.${i}.`;
  tidy(() => {
    const tensors = loadSafetensors(file);
    const first = [...tensors].filter(([key]) => key.startsWith(layer(0)));
    const add = (i: number): void => {
      for (const [key, value] of first) tensors.set(key.replace(layer(0), layer(i)), value);
    };
    add(layers);
    saveSafetensors(file, tensors);
    const load = () => StableDiffusionPipeline.fromPretrained(file, { config: path });
    assert.throws(load, /attn\.in_proj_weight: Expected no such key/);
    const projection = ["cond_stage_model.model.text_projection", zeros([4, 4])] as const;
    saveSafetensors(file, new Map([...tensors, projection]), readHeader(file).metadata);
    const read = load();
    assertSame(read, pipeline);
    read.dispose();
    // Merges lose the projection; of 24 layers the last is known to be spare all the same.
    for (let i = layers + 1; i < 24; i++) add(i);
    saveSafetensors(file, tensors);
    const textEncoder = new SingleFile(file).textEncoder({});
    assert.equal(textEncoder.config.num_hidden_layers, 23);
    textEncoder.dispose();
  });
  pipeline.dispose();
});

describe("a single file without configs", () => {
  const generator = new Generator(1);
  const text = {
    hidden_size: 128,
    intermediate_size: 256,
    num_attention_heads: 2,
    num_hidden_layers: 2,
    vocab_size: 99,
    eos_token_id: 2,
  };
  const parts = {
    unet: UNet2DConditionModel.fromConfig(
      {
        block_out_channels: [64, 128, 128],
        down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        attention_head_dim: 8,
        cross_attention_dim: 128,
        sample_size: 64,
      },
      { generator },
    ),
    vae: AutoencoderKL.fromConfig(
      { block_out_channels: [32, 64], layers_per_block: 2, sample_size: 512 },
      { generator },
    ),
    textEncoder: CLIPTextModel.fromConfig(text, { generator }),
  };
  const file = join(folder, "inferred.safetensors");
  saveSingleFile(parts, file, "sd1", "epsilon");

  test("has them inferred from its shapes", () => {
    const single = new SingleFile(file);
    assert.equal(single.family, "sd1");
    const [unet, vae, textEncoder] = [single.unet({}), single.vae({}), single.textEncoder({})];
    const levels = (value: unknown) => (typeof value === "number" ? [value, value, value] : value);
    const comparable = ({ config: { transformer_layers_per_block: depth, ...config } }: UNet2DConditionModel) => ({
      ...config,
      depth: levels(depth),
    });
    assert.deepEqual(comparable(unet), comparable(parts.unet));
    assert.equal(vae.config.layers_per_block, 2);
    assert.deepEqual(vae.config.block_out_channels, parts.vae.config.block_out_channels);
    assert.deepEqual(textEncoder.config, parts.textEncoder.config);
    for (const model of [unet, vae, textEncoder]) model.dispose();
  });

  test("has no tokenizer", () => {
    assert.throws(
      () => StableDiffusionPipeline.fromPretrained(file),
      /Expected a folder with CLIP's tokenizer for config/,
    );
  });
});

describe("files that are no such checkpoint", () => {
  const input = "model.diffusion_model.input_blocks.0.0.weight";
  const text = { "cond_stage_model.transformer.text_model.final_layer_norm.weight": zeros([4]) };
  const vae = { "first_stage_model.decoder.conv_in.weight": zeros([4, 4, 3, 3]) };
  const whole = { [input]: zeros([32, 4, 3, 3]), ...text, ...vae };
  const cases: readonly (readonly [what: string, tensors: Record<string, Tensor>, message: RegExp])[] = [
    ["a LoRA", { "lora_unet_x.lora_up.weight": zeros([1]) }, /a LoRA file: use --lora/],
    ["Stable Diffusion 3", { "model.diffusion_model.joint_blocks.0.x": zeros([1]) }, /Stable Diffusion 3/],
    ["Flux", { "double_blocks.0.img_attn.proj.weight": zeros([1]) }, /Flux/],
    ["the refiner", { "conditioner.embedders.0.model.ln_final.weight": zeros([1]) }, /the SDXL refiner/],
    ["a part of a folder", { "down_blocks.0.resnets.0.conv1.bias": zeros([1]) }, /one part of a diffusers folder/],
    ["a checkpoint without VAE", { [input]: zeros([32, 4, 3, 3]), ...text }, /with a VAE .* received one without/],
    ["a ControlNet", { ...whole, "control_model.x": zeros([1]) }, /control_model\.x: this is a ControlNet/],
    ["an EDM model", { ...whole, edm_mean: zeros([4]), edm_std: zeros([4]) }, /edm_std: this is a model of EDM/],
    ["something else", { weight: zeros([1]) }, /other keys, such as weight/],
    [
      "an inpainting model",
      { ...whole, [input]: zeros([32, 9, 3, 3]) },
      /Expected 4 channels .* received 9 \(inpainting\)/,
    ],
  ];
  for (const [what, tensors, message] of cases) {
    test(what, () => {
      const file = join(folder, "other.safetensors");
      saveSafetensors(file, tensors);
      assert.throws(() => new SingleFile(file), message);
    });
  }
});

test("v-prediction is told from the metadata, else from how spread a bias is", () => {
  const source = goldenSets("unet", "io.safetensors").find(({ name }) => name === "sd2")!;
  const file = join(folder, "sd2.safetensors");
  const load = () => StableDiffusionPipeline.fromPretrained(file, { config: source.path("tokenizer") });
  const tensors = loadSafetensors(file);
  // Heads and groups of so narrow a model cannot be inferred: only the scheduler is asked for.
  const predictionOf = (spread: number, metadata = {}): unknown => {
    const key = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    const bias = randn([1000], { generator: new Generator(0) }).mul(spread);
    saveSafetensors(file, new Map([...tensors, [key, bias]]), metadata);
    return (new SingleFile(file).schedulerConfig() as { prediction_type: unknown }).prediction_type;
  };
  assert.equal(predictionOf(0.2), "v_prediction");
  assert.equal(predictionOf(0.05), "epsilon");
  assert.equal(predictionOf(0.05, { "modelspec.prediction_type": "v" }), "v_prediction");
  assert.equal(predictionOf(0.05, { "modelspec.prediction_type": "v_prediction" }), "v_prediction");
  assert.equal(predictionOf(0.2, { "modelspec.prediction_type": "epsilon" }), "epsilon");
  assert.throws(load, /Expected/);
  saveSafetensors(file, new Map([...tensors, ["v_pred", zeros([0])], ["ztsnr", zeros([0])]]));
  const { prediction_type: predicted, rescale_betas_zero_snr: rescaled } = new SingleFile(
    file,
  ).schedulerConfig() as Record<string, unknown>;
  assert.deepEqual([predicted, rescaled], ["v_prediction", true]);
});
