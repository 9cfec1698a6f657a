/** The configs of published models are accepted as they are, and features that are not here are refused by name. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { parseVaeConfig } from "../src/models/autoencoder-kl.js";
import { parseClipConfig, parseTextConfig } from "../src/models/clip-config.js";
import { ModelConfigError } from "../src/models/index.js";
import { parseSD3TransformerConfig } from "../src/models/sd3-config.js";
import { parseT5Config } from "../src/models/t5-config.js";
import { levelsOf, parseUNetConfig } from "../src/models/unet-config.js";
import { checkFit } from "../src/pipeline/fit.js";
import { readModelIndex } from "../src/pipeline/model-index.js";
import type { Parts } from "../src/pipeline/parts.js";
import { checkSD3Fit } from "../src/pipeline/sd3-fit.js";
import type { SD3Parts } from "../src/pipeline/sd3-parts.js";
import { FlowMatchScheduler, parseSchedulerConfig, SchedulerConfigError } from "../src/schedulers/index.js";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import {
  publishedClips,
  publishedFlowModels,
  publishedModels,
  type PublishedModel,
} from "./support/published-configs.js";

function indexOf(index: object): ReturnType<typeof readModelIndex> {
  const folder = temporaryFolder();
  writeFileSync(join(folder, "model_index.json"), JSON.stringify(index));
  return readModelIndex(folder);
}

const tokenizer = CLIPTokenizer.fromPretrained(join(fixtures, "sd1", "tokenizer"));

/** The configs of a model's parts, in the place of the parts. */
function partsOf({ index, unet, vae, textEncoder, textEncoder2 }: PublishedModel): Parts {
  const parts = {
    index: indexOf(index),
    unet: { config: parseUNetConfig(unet, "unet") },
    vae: { config: parseVaeConfig(vae, "vae") },
    tokenizer,
    textEncoder: { config: parseTextConfig(textEncoder, "text_encoder") },
    ...(textEncoder2 && { textEncoder2: { config: parseTextConfig(textEncoder2, "text_encoder_2") } }),
  };
  return parts as unknown as Parts;
}

const model = (name: string): PublishedModel => publishedModels[name]!;

describe("published models", () => {
  for (const [name, published] of Object.entries(publishedModels)) {
    test(name, () => {
      checkFit(partsOf(published), name);
      const scheduler = parseSchedulerConfig(published.scheduler, name);
      assert.deepEqual([scheduler.beta_end, scheduler.steps_offset, scheduler.clip_sample], [0.012, 1, false]);
      assert.equal(scheduler.prediction_type, published.scheduler.prediction_type ?? "epsilon");
    });
  }

  test("their defaults are diffusers'", () => {
    const heads = (name: string) => levelsOf(parseUNetConfig(model(name).unet, name)).map((level) => level.heads);
    assert.deepEqual(heads("stable-diffusion-v1-5"), [8, 8, 8, 8]);
    assert.deepEqual(heads("stable-diffusion-2-1"), [5, 10, 20, 20]);
    const sdxl = parseUNetConfig(model("stable-diffusion-xl-base-1.0").unet, "sdxl");
    assert.deepEqual(
      levelsOf(sdxl).map(({ downTransformers, upTransformers }) => [downTransformers, upTransformers]),
      [1, 2, 10].map((depth) => [[depth, depth], [depth, depth, depth]]), // prettier-ignore
    );
    const vae = parseVaeConfig(model("stable-diffusion-v1-5").vae, "vae");
    assert.deepEqual([vae.scaling_factor, vae.norm_num_groups], [0.18215, 32]);
    assert.equal(parseVaeConfig(model("sdxl-turbo").vae, "vae").scaling_factor, 0.13025);
  });

  test("what a sampler without clipping does not say of it is no", () => {
    const clips = (config: object): boolean => parseSchedulerConfig(config).clip_sample;
    assert.equal(clips({ _class_name: "EulerDiscreteScheduler", beta_schedule: "scaled_linear" }), false);
    assert.equal(clips({ _class_name: "LMSDiscreteScheduler", clip_sample: true }), true);
    for (const config of [{}, { _class_name: "DDIMScheduler" }, { _class_name: "DDPMScheduler" }]) {
      assert.equal(clips(config), true);
    }
  });

  for (const [name, { transformer, vae, textEncoder3, scheduler }] of Object.entries(publishedFlowModels)) {
    test(name, () => {
      const config = parseSD3TransformerConfig(transformer, name);
      const { num_layers: depth, dual_attention_layers: dual } = config;
      assert.deepEqual([depth, dual.length], name.includes("large") ? [38, 0] : [24, name.includes("3.5") ? 13 : 0]);
      const { shift_factor: shift, latent_channels: channels } = parseVaeConfig(vae, name);
      assert.deepEqual([shift, channels], [0.0609, 16]);
      assert.equal(parseT5Config(textEncoder3, name).feed_forward_proj, "gated-gelu");
      assert.equal(FlowMatchScheduler.fromConfig(scheduler, name).config.shift, 3);
      // Its two CLIPs are those of XL, and T5's ids end at 32099.
      const { textEncoder, textEncoder2 } = model("stable-diffusion-xl-base-1.0");
      const clips = [textEncoder, textEncoder2!].map((clip) => ({
        tokenizer,
        encoder: { config: parseTextConfig(clip, name) },
      }));
      const t5 = {
        tokenizer: { lastId: 32_099, padTokenId: 0 },
        encoder: { config: parseT5Config(textEncoder3, name) },
      };
      const parts = { clips, t5, transformer: { config }, vae: { config: parseVaeConfig(vae, name) } };
      checkSD3Fit(parts as unknown as SD3Parts, name);
    });
  }

  for (const [name, config] of Object.entries(publishedClips)) {
    test(name, () => {
      const { text_config: text, vision_config: vision } = parseClipConfig(config, name);
      assert.equal(text.hidden_act, name.startsWith("openai") ? "quick_gelu" : "gelu");
      assert.equal(vision.patch_size, 14);
    });
  }

  test("a tower's second config in CLIP's decides alone, as in transformers", () => {
    const { text_config: text } = parseClipConfig(
      {
        text_config: { hidden_act: "gelu", hidden_size: 96, num_attention_heads: 4 },
        text_config_dict: { hidden_size: 128 },
      },
      "clip",
    );
    assert.deepEqual([text.hidden_act, text.hidden_size, text.num_attention_heads], ["quick_gelu", 128, 8]);
  });
});

describe("features that are not here", () => {
  const { unet, vae, textEncoder, scheduler, index } = model("stable-diffusion-v1-5");
  const refusals: [what: string, parse: () => unknown, expected: RegExp][] = [
    ...Object.entries({
      class_embed_type: "timestep",
      time_cond_proj_dim: 256,
      num_attention_heads: 8,
      num_class_embeds: 1000,
      encoder_hid_dim_type: "text_proj",
      addition_embed_type: "text_image",
      conv_in_kernel: 5,
      act_fn: "gelu",
      resnet_time_scale_shift: "scale_shift",
      dual_cross_attention: true,
      only_cross_attention: true,
      time_embedding_type: "fourier",
      attention_type: "gated",
    }).map(([key, value]): [string, () => unknown, RegExp] => [
      `unet ${key}`,
      () => parseUNetConfig({ ...unet, [key]: value }, "unet/config.json"),
      new RegExp(`^unet/config\\.json: Expected .* for ${key} but received ${JSON.stringify(value)}$`),
    ]),
    ["unet key", () => parseUNetConfig({ ...unet, nonsense: 1 }, "u"), /^u: Expected no key nonsense but received 1$/],
    [
      "unet blocks",
      () => parseUNetConfig({ ...unet, layers_per_block: [2, 2], attention_head_dim: [1, 2, 3] }, "u"),
      /^u: Expected 4 entries, as in block_out_channels, for layers_per_block but received 2\n.*attention_head_dim/,
    ],
    ["unet heads", () => parseUNetConfig({ ...unet, attention_head_dim: 7 }, "u"), /heads that divide .* received 7/],
    ["unet groups", () => parseUNetConfig({ ...unet, norm_num_groups: 48 }, "u"), /multiples of norm_num_groups, 48/],
    [
      "unet depths",
      () => parseUNetConfig({ ...unet, transformer_layers_per_block: [1, [1, 1], 1, 1] }, "u"),
      /for reverse_transformer_layers_per_block but received null/,
    ],
    [
      "unet sizes",
      () => parseUNetConfig({ ...unet, addition_embed_type: "text_time" }, "u"),
      /beside addition_embed_type text_time for addition_time_embed_dim but received null/,
    ],
    ["vae mean", () => parseVaeConfig({ ...vae, latents_mean: [0, 0, 0, 0] }, "v"), /for latents_mean but received/],
    [
      "vae blocks",
      () => parseVaeConfig({ ...vae, down_block_types: Array(4).fill("AttnDownEncoderBlock2D") }, "v"),
      /for down_block_types.0 but received "AttnDownEncoderBlock2D"/,
    ],
    ["vae groups", () => parseVaeConfig({ ...vae, norm_num_groups: 3 }, "v"), /multiples of norm_num_groups, 3/],
    ["text", () => parseTextConfig({ ...textEncoder, hidden_act: "relu" }, "t"), /for hidden_act but received "relu"$/],
    ["text heads", () => parseTextConfig({ ...textEncoder, num_attention_heads: 7 }, "t"), /multiple of num_attention/],
    [
      "scheduler betas",
      () => parseSchedulerConfig({ ...scheduler, trained_betas: [0.1] }, "s"),
      /^s: Expected null for trained_betas but received \[0.1\]$/,
    ],
    [
      "scheduler thresholding",
      () => parseSchedulerConfig({ ...scheduler, thresholding: true }, "s"),
      /Expected false for thresholding but received true/,
    ],
    ...Object.entries({ timestep_type: "continuous", use_flow_sigmas: true, timestep_values: [1] }).map(
      ([key, value]): [string, () => unknown, RegExp] => [
        `scheduler ${key}`,
        () => parseSchedulerConfig({ ...scheduler, [key]: value }, "s"),
        new RegExp(`^s: Expected .* for ${key} but received`),
      ],
    ),
    [
      "inpainting pipeline",
      () => indexOf({ ...index, _class_name: "StableDiffusionInpaintPipeline" }),
      /model_index.json: Expected .* for _class_name but received "StableDiffusionInpaintPipeline"/,
    ],
    [
      "refiner",
      () => indexOf({ ...index, _class_name: "StableDiffusionXLImg2ImgPipeline", text_encoder: [null, null] }),
      /for _class_name but received "StableDiffusionXLImg2ImgPipeline"/,
    ],
    [
      "another vae",
      () => indexOf({ ...index, vae: ["diffusers", "AutoencoderTiny"] }),
      /Expected a AutoencoderKL for vae but received \["diffusers","AutoencoderTiny"\]/,
    ],
  ];
  for (const [what, parse, expected] of refusals) {
    test(what, () => {
      assert.throws(parse, (error) => {
        assert(error instanceof ModelConfigError || error instanceof SchedulerConfigError);
        assert.match(error.message, expected);
        return true;
      });
    });
  }

  test("parts that do not fit each other", () => {
    const fit = (change: Partial<PublishedModel>, base = "stable-diffusion-v1-5") =>
      checkFit(partsOf({ ...model(base), ...change }), "folder");
    assert.throws(
      () => fit({ unet: { ...unet, in_channels: 9 } }),
      /^ModelConfigError: folder: Expected 4, the vae's latent_channels, for in_channels of the unet but received 9$/,
    );
    assert.throws(
      () => fit({ vae: { ...vae, shift_factor: 0.1159 } }),
      /^ModelConfigError: folder: Expected null for shift_factor of the vae but received 0.1159$/,
    );
    assert.throws(
      () => fit({ unet: model("stable-diffusion-2-1").unet }),
      /Expected 768, the width of the text encoders, for cross_attention_dim of the unet but received 1024/,
    );
    const { unet: unetXL } = model("stable-diffusion-xl-base-1.0");
    assert.throws(() => fit({ unet: unetXL }), /Expected null, .*, for addition_embed_type .* received "text_time"/);
    assert.throws(
      () => fit({ unet: { ...unetXL, projection_class_embeddings_input_dim: 2560 } }, "sdxl-turbo"),
      /Expected 2816, six sizes and the pooled text, for projection_class_embeddings_input_dim .* received 2560/,
    );
  });
});
