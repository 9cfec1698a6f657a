/**
 * Published models without their weights: folders with their configs, and safetensors files whose headers are theirs and
 * whose data are a hole in the file. For estimates, which read no more.
 */
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeJson } from "../src/base/files.js";
import {
  AutoencoderKL,
  CLIPModel,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  SD3Transformer2DModel,
  T5EncoderModel,
  UNet2DConditionModel,
  type PretrainedModel,
} from "../src/models/index.js";
import { Generator, type Device } from "../src/torch/index.js";
import { publishedClips, publishedFlowModels, publishedModels } from "../test/support/published-configs.js";

/** libtorch's device of tensors without memory. */
const options = { generator: new Generator(0), device: "meta" as Device };

interface Shaped {
  readonly shape: readonly number[];
}

/** Writes config.json and a file of weights without data. */
function writeFolder(folder: string, stem: string, config: object, parameters: ReadonlyMap<string, Shaped>): void {
  mkdirSync(folder, { recursive: true });
  writeJson(join(folder, "config.json"), config);
  let end = 0;
  const entries = [...parameters].map(([key, { shape }]) => {
    const begin = end;
    end += shape.reduce((product, side) => product * side, 2);
    return [key, { dtype: "F16", shape, data_offsets: [begin, end] }] as const;
  });
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = join(folder, `${stem}.safetensors`);
  writeFileSync(file, Buffer.concat([length, json]));
  truncateSync(file, length.length + json.length + end);
}

/** Writes the folders of a model's parts, and frees the parts. */
function writeParts(folder: string, parts: Readonly<Record<string, readonly [object, PretrainedModel<object>]>>): void {
  for (const [part, [config, model]] of Object.entries(parts)) {
    const stem = part.startsWith("text") ? "model" : "diffusion_pytorch_model";
    writeFolder(join(folder, part), stem, config, model.parameters());
    model.dispose();
  }
}

/** A folder for a published Stable Diffusion, by its name in test/support/published-configs.ts. */
export function headerOnlyModel(name: string, folder: string): void {
  const { index, unet, vae, textEncoder, textEncoder2 } = publishedModels[name]!;
  writeParts(folder, {
    unet: [unet, UNet2DConditionModel.fromConfig(unet, options)],
    vae: [vae, AutoencoderKL.fromConfig(vae, options)],
    text_encoder: [textEncoder, CLIPTextModel.fromConfig(textEncoder, options)],
    ...(textEncoder2 && {
      text_encoder_2: [textEncoder2, CLIPTextModelWithProjection.fromConfig(textEncoder2, options)] as const,
    }),
  });
  writeJson(join(folder, "model_index.json"), index);
}

/** A folder for a published Stable Diffusion 3, by its name there; its two CLIPs are those of XL. */
export function headerOnlyFlowModel(name: string, folder: string): void {
  const { transformer, vae, textEncoder3 } = publishedFlowModels[name]!;
  const { textEncoder, textEncoder2 } = publishedModels["stable-diffusion-xl-base-1.0"]!;
  writeParts(folder, {
    transformer: [transformer, SD3Transformer2DModel.fromConfig(transformer, options)],
    vae: [vae, AutoencoderKL.fromConfig(vae, options)],
    text_encoder: [textEncoder, CLIPTextModelWithProjection.fromConfig(textEncoder, options)],
    text_encoder_2: [textEncoder2!, CLIPTextModelWithProjection.fromConfig(textEncoder2!, options)],
    text_encoder_3: [textEncoder3, T5EncoderModel.fromConfig(textEncoder3, options)],
  });
  const texts = ["", "_2", "_3"].map((suffix) => ({
    [`tokenizer${suffix}`]: ["transformers", suffix === "_3" ? "T5TokenizerFast" : "CLIPTokenizer"],
    [`text_encoder${suffix}`]: ["transformers", suffix === "_3" ? "T5EncoderModel" : "CLIPTextModelWithProjection"],
  }));
  writeJson(join(folder, "model_index.json"), {
    _class_name: "StableDiffusion3Pipeline",
    ...Object.assign({}, ...texts),
    transformer: ["diffusers", "SD3Transformer2DModel"],
    vae: ["diffusers", "AutoencoderKL"],
  });
}

/** A folder for a published CLIP. */
export function headerOnlyClip(name: string, folder: string): void {
  const config = publishedClips[name]!;
  const model = CLIPModel.fromConfig(config, options);
  writeFolder(folder, "model", config, model.parameters());
  model.dispose();
}
