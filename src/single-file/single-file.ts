/**
 * Checkpoints in one safetensors file with the keys of the original Stable Diffusion, as model-sharing sites distribute
 * them: read part by part into the same model classes as a diffusers folder, and written from them.
 *
 * Such a file holds no configs and no tokenizer. Configs are inferred (infer.ts) unless a diffusers folder with them is
 * given, like `config=` of diffusers' from_single_file.
 */
import { show } from "../base/show.js";
import {
  CLIPTextModel,
  CLIPTextModelWithProjection,
  ModelConfigError,
  UNet2DConditionModel,
  type AutoencoderKL,
  type ModelClass,
  type UNetConfig,
} from "../models/index.js";
import type { Module, WeightsOptions } from "../nn/index.js";
import { SafetensorsFile, saveSafetensors } from "../safetensors/index.js";
import { tidy } from "../torch/index.js";
import { Checkpoint, inTower, levelsOf, toStored } from "./checkpoint.js";
import { detectFamily, PREFIXES, type Family } from "./family.js";
import { inferClip, inferOpenClip, inferUNet, inferVae } from "./infer.js";
import { clipNames, openClipNames, unetNames, vaeNames, type UNetNumbering } from "./names.js";

type Part = "unet" | "vae" | "text_encoder" | "text_encoder_2";

/** The models of a pipeline that a single file holds. */
export interface SingleFileParts {
  readonly unet: UNet2DConditionModel;
  readonly vae: AutoencoderKL;
  readonly textEncoder: CLIPTextModel;
  readonly textEncoder2?: CLIPTextModelWithProjection | undefined;
}

export class SingleFile {
  readonly file: string;
  readonly family: Family;
  readonly #checkpoint: Checkpoint;

  /**
   * @param configFolder a diffusers folder whose configs replace the inferred ones
   * @throws SafetensorsError saying what the file is, if it is not a checkpoint of a known family
   */
  constructor(file: string, configFolder?: string) {
    this.file = file;
    this.#checkpoint = new Checkpoint(file, configFolder);
    this.family = detectFamily(this.#checkpoint.header);
  }

  unet(options: WeightsOptions): UNet2DConditionModel {
    const prefix = PREFIXES[this.family].unet;
    const given = this.#checkpoint.config("unet", () => inferUNet(this.#checkpoint.shapes.at(prefix), this.family));
    const numbering = numberingOf(UNet2DConditionModel.layout.parseConfig(given.config, given.source), given.source);
    return this.#checkpoint.load(UNet2DConditionModel, given, { prefix, names: unetNames(prefix, numbering) }, options);
  }

  vae(options: WeightsOptions): AutoencoderKL {
    return this.#checkpoint.vae(PREFIXES[this.family].vae, (shapes) => inferVae(shapes, this.family), options);
  }

  textEncoder(options: WeightsOptions): CLIPTextModel {
    const prefix = PREFIXES[this.family].textEncoder;
    if (this.family === "sd2") return this.#openClip(CLIPTextModel, "text_encoder", prefix, options);
    const given = this.#checkpoint.config("text_encoder", () => inferClip(this.#checkpoint.shapes.at(prefix)));
    return this.#checkpoint.load(CLIPTextModel, given, { prefix, names: clipNames(prefix) }, options);
  }

  /** SDXL's second one. */
  textEncoder2(options: WeightsOptions): CLIPTextModelWithProjection {
    const prefix = PREFIXES[this.family].textEncoder2;
    if (prefix === undefined) throw new Error(`Expected text_encoder_2 in a file of ${this.family} but there is none`);
    return this.#openClip(CLIPTextModelWithProjection, "text_encoder_2", prefix, options);
  }

  /**
   * The noise schedule of the family, with the prediction type from the config folder or the file's metadata. For SD 2
   * without either, the standard deviation of one bias decides: it is above 0.09 in the published v-prediction models,
   * as ComfyUI found.
   */
  schedulerConfig(): object {
    const given = this.#checkpoint.given("scheduler", "scheduler_config.json");
    if (given !== undefined) return given.config;
    const { metadata, tensors } = this.#checkpoint.header;
    const told = metadata["modelspec.prediction_type"];
    const marked = tensors.has("v_pred") || told?.startsWith("v") === true; // "v", or diffusers' name
    const { unet } = PREFIXES[this.family];
    const bias = `${unet}output_blocks.11.1.transformer_blocks.0.norm1.bias`;
    const spread = this.family === "sd2" && told === undefined && tensors.has(bias) && this.#spread(bias) > 0.09;
    return {
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: "scaled_linear",
      num_train_timesteps: 1000,
      clip_sample: false,
      set_alpha_to_one: false,
      steps_offset: 1,
      timestep_spacing: "leading",
      prediction_type: marked || spread ? "v_prediction" : "epsilon",
      // A key marks models with zero terminal SNR, as in ComfyUI.
      ...(tensors.has("ztsnr") && { rescale_betas_zero_snr: true, timestep_spacing: "trailing" }),
    };
  }

  #openClip<Config extends { readonly num_hidden_layers: number }, Model extends Module>(
    modelClass: ModelClass<Config, object, Model>,
    part: Part,
    prefix: string,
    options: WeightsOptions,
  ): Model {
    const tower = this.#checkpoint.shapes.at(prefix);
    const stored = tower.count((i) => `transformer.resblocks.${i}.mlp.c_fc.weight`);
    const isSD2 = this.family === "sd2";
    // SD 2 uses the second-to-last of 24 layers. A complete OpenCLIP, recognised by its projection, still has the last.
    const isWhole = isSD2 && (stored === 24 || tower.find("text_projection") !== undefined);
    const given = this.#checkpoint.config(part, () => inferOpenClip(tower, isWhole ? stored - 1 : stored));
    const { num_hidden_layers: used } = modelClass.layout.parseConfig(given.config, given.source);
    const ignore = [isSD2 ? /^(logit_scale|attn_mask|text_projection)$/ : /^(logit_scale|attn_mask)$/];
    if (isWhole && used === stored - 1) ignore.push(new RegExp(`^transformer\\.resblocks\\.${used}\\.`));
    return this.#checkpoint.load(modelClass, given, { prefix, names: openClipNames(prefix), ignore }, options);
  }

  /** The standard deviation of a tensor. */
  #spread(key: string): number {
    return tidy(() => new SafetensorsFile(this.file).tensor(key, { dtype: "float32" }).std().item());
  }
}

/**
 * Writes a pipeline's models as one file in the original layout, atomically and in their current dtype.
 *
 * @param predictionType of the scheduler, for the file's metadata
 */
export function saveSingleFile(parts: SingleFileParts, file: string, family: Family, predictionType: string): void {
  const { unet, vae, textEncoder, textEncoder2 } = parts;
  const at = PREFIXES[family];
  const textNames = family === "sd2" ? openClipNames : clipNames;
  const stored = new Map([
    ...toStored(unet, unetNames(at.unet, numberingOf(unet.config, file))),
    ...toStored(vae, vaeNames(at.vae, levelsOf(vae.config))),
    ...toStored(textEncoder, inTower(textNames(at.textEncoder))),
    ...(textEncoder2 === undefined ? [] : toStored(textEncoder2, inTower(openClipNames(at.textEncoder2!)))),
  ]);
  const prediction = predictionType === "v_prediction" ? "v" : predictionType;
  saveSafetensors(file, stored, { format: "pt", "modelspec.prediction_type": prediction });
}

/**
 * @throws ModelConfigError if the levels differ in their number of layers, which the original's names cannot express
 */
function numberingOf(config: UNetConfig, source: string): UNetNumbering {
  const [layersPerBlock, ...others] = [config.layers_per_block].flat();
  if (others.some((other) => other !== layersPerBlock)) {
    const received = show(config.layers_per_block);
    throw new ModelConfigError(
      `${source}: Expected one number for layers_per_block of the unet, as a single file has it, but received ${received}`,
    );
  }
  return {
    layersPerBlock: layersPerBlock!,
    upAttends: config.up_block_types.map((type) => type === "CrossAttnUpBlock2D"),
  };
}
