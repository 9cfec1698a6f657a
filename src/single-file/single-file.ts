/**
 * Checkpoints in one safetensors file with the keys of the original Stable Diffusion, the form that model-sharing sites
 * distribute: read part by part, memory-mapped, into the same model classes as a diffusers folder, and written from them.
 *
 * Such a file holds no configs and no tokenizer. Configs are inferred (infer.ts), unless a diffusers folder with the
 * parts' configs is given, as `config=` of diffusers' from_single_file.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  loadModelFrom,
  readJsonObject,
  UNet2DConditionModel,
  type ModelLayout,
  type UNetConfigInput,
} from "../models/index.js";
import type { Module, WeightsOptions } from "../nn/index.js";
import {
  readHeader,
  SafetensorsFile,
  saveSafetensors,
  type PendingTensor,
  type SafetensorsHeader,
} from "../safetensors/index.js";
import { cat, tidy, type Tensor } from "../torch/index.js";
import { detectFamily, prefixes, type Family } from "./family.js";
import { inferClip, inferOpenClip, inferUNet, inferVae, Shapes } from "./infer.js";
import { clipNames, openClipNames, unetNames, vaeNames, type Names, type UNetNumbering } from "./names.js";

type Part = "unet" | "vae" | "text_encoder" | "text_encoder_2";

/** A part's config, and where in the file its weights are. */
interface Place {
  readonly config: object;
  readonly prefix: string;
  readonly names: Names;
  /** Keys of the part, without the prefix, that are rightly left unread. */
  readonly ignore?: readonly RegExp[];
}

/** The models of a pipeline, as they are read from a file or written to one. */
export interface SingleFileParts {
  readonly unet: UNet2DConditionModel;
  readonly vae: AutoencoderKL;
  readonly textEncoder: CLIPTextModel;
  readonly textEncoder2?: CLIPTextModelWithProjection | undefined;
}

export class SingleFile {
  readonly family: Family;
  readonly #header: SafetensorsHeader;
  readonly #places: Readonly<Record<Part, Place | undefined>>;

  /**
   * @param configFolder a diffusers folder whose configs count instead of the inferred ones
   * @throws SafetensorsError saying what the file is, when it is no checkpoint of a known family
   */
  constructor(
    readonly file: string,
    private readonly configFolder?: string,
  ) {
    this.#header = readHeader(file);
    this.family = detectFamily(this.#header);
    this.#places = this.#findPlaces();
  }

  unet(options: WeightsOptions): UNet2DConditionModel {
    return this.#load("unet", UNet2DConditionModel.layout, options);
  }

  vae(options: WeightsOptions): AutoencoderKL {
    return this.#load("vae", AutoencoderKL.layout, options);
  }

  textEncoder(options: WeightsOptions): CLIPTextModel {
    return this.#load("text_encoder", CLIPTextModel.layout, options);
  }

  /** SDXL's second one. */
  textEncoder2(options: WeightsOptions): CLIPTextModelWithProjection {
    return this.#load("text_encoder_2", CLIPTextModelWithProjection.layout, options);
  }

  /**
   * The noise schedule of the family, and what the UNet predicts: the config folder's word, else the file's metadata,
   * else, for SD 2, how spread one bias is (above 0.09 in the published v-prediction models, a fact that ComfyUI found).
   */
  schedulerConfig(): object {
    const given = this.#givenConfig("scheduler", "scheduler_config.json");
    if (given !== undefined) return given;
    const told = this.#header.metadata["modelspec.prediction_type"];
    const marked = this.#header.tensors.has("v_pred") || told?.startsWith("v") === true; // "v", or diffusers' name
    const { unet } = prefixes[this.family];
    const bias = `${unet}output_blocks.11.1.transformer_blocks.0.norm1.bias`;
    const spread =
      this.family === "sd2" && told === undefined && this.#header.tensors.has(bias) && this.#spread(bias) > 0.09;
    return {
      ...{ beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", num_train_timesteps: 1000 },
      ...{ clip_sample: false, set_alpha_to_one: false, steps_offset: 1, timestep_spacing: "leading" },
      prediction_type: marked || spread ? "v_prediction" : "epsilon",
      // Models that were trained to start from noise alone say so by a key, as ComfyUI reads it.
      ...(this.#header.tensors.has("ztsnr") && { rescale_betas_zero_snr: true, timestep_spacing: "trailing" }),
    };
  }

  #load<M extends Module>(part: Part, layout: ModelLayout<M>, options: WeightsOptions): M {
    const place = this.#places[part];
    if (place === undefined) throw new Error(`Expected ${part} in a file of ${this.family} but there is none`);
    const { config, prefix, names, ignore = [] } = place;
    return loadModelFrom(
      { ...layout, ignore: [...(layout.ignore ?? []), ...ignore] },
      { config, source: this.file, files: [this.file] },
      { ...options, stored: names, prefix },
    );
  }

  #findPlaces(): Record<Part, Place | undefined> {
    const { family } = this;
    const at = prefixes[family];
    const shapes = new Shapes(this.#header);
    const config = (part: Part, infer: () => object): object => this.#givenConfig(part, "config.json") ?? infer();
    const unet = config("unet", () => inferUNet(shapes.at(at.unet), family));
    const vae = config("vae", () => inferVae(shapes.at(at.vae), family));
    const openClip = (part: "text_encoder" | "text_encoder_2", prefix: string): Place => {
      const tower = shapes.at(prefix);
      const stored = tower.count((i) => `transformer.resblocks.${i}.mlp.c_fc.weight`);
      // SD 2 takes the last but one of 24 layers; a whole OpenCLIP, which the projection tells too, still has the last.
      const isWhole = family === "sd2" && (stored === 24 || tower.find("text_projection") !== undefined);
      const own = config(part, () => inferOpenClip(tower, isWhole ? stored - 1 : stored));
      const { num_hidden_layers: used = stored } = own as { num_hidden_layers?: number };
      const ignored = ["logit_scale", "attn_mask", ...(family === "sd2" ? ["text_projection"] : [])];
      return {
        config: own,
        prefix,
        names: openClipNames(prefix),
        ignore: [
          new RegExp(`^(${ignored.join("|")})$`),
          ...(isWhole && used === stored - 1 ? [new RegExp(`^transformer\\.resblocks\\.${used}\\.`)] : []),
        ],
      };
    };
    return {
      unet: { config: unet, prefix: at.unet, names: unetNames(at.unet, numberingOf(unet)) },
      vae: {
        config: vae,
        prefix: at.vae,
        names: vaeNames(at.vae, levelsOf(vae)),
        ignore: [/^(loss|model_ema)\./], // of a VAE that was merged in as it came from training
      },
      text_encoder:
        family === "sd2"
          ? openClip("text_encoder", at.textEncoder)
          : {
              config: config("text_encoder", () => inferClip(shapes.at(at.textEncoder))),
              prefix: at.textEncoder,
              names: clipNames(at.textEncoder),
            },
      text_encoder_2: at.textEncoder2 === undefined ? undefined : openClip("text_encoder_2", at.textEncoder2),
    };
  }

  /** The standard deviation of a tensor. */
  #spread(key: string): number {
    let spread = 0;
    tidy(() => {
      const file = new SafetensorsFile(this.file);
      spread = file.tensor(key, { dtype: "float32" }).std().item();
      file.close();
    });
    return spread;
  }

  #givenConfig(part: string, name: string): object | undefined {
    if (this.configFolder === undefined) return undefined;
    const file = join(this.configFolder, part, name);
    return existsSync(file) ? readJsonObject(file) : undefined;
  }
}

/**
 * Writes a pipeline's models as one file in the original layout, in the dtype they are held in; atomic.
 *
 * @param predictionType of the scheduler, for the file's metadata
 */
export function saveSingleFile(parts: SingleFileParts, file: string, family: Family, predictionType: string): void {
  const { unet, vae, textEncoder, textEncoder2 } = parts;
  const at = prefixes[family];
  const textNames = family === "sd2" ? openClipNames : clipNames;
  const stored = new Map([
    ...toStored(unet, unetNames(at.unet, numberingOf(unet.config))),
    ...toStored(vae, vaeNames(at.vae, levelsOf(vae.config))),
    ...toStored(textEncoder, inTower(textNames(at.textEncoder))),
    ...(textEncoder2 === undefined ? [] : toStored(textEncoder2, inTower(openClipNames(at.textEncoder2!)))),
  ]);
  const prediction = predictionType === "v_prediction" ? "v" : predictionType;
  saveSafetensors(file, stored, { format: "pt", "modelspec.prediction_type": prediction });
}

/** A model's parameters under the names and in the forms of the original. */
function toStored(model: Module, names: Names): Map<string, PendingTensor> {
  const stored = new Map<string, PendingTensor>();
  const thirds = new Map<string, Tensor[]>();
  for (const [name, parameter] of model.parameters()) {
    const { key, form } = names(name);
    const { dtype, shape } = parameter;
    if (form === undefined) stored.set(key, { dtype, shape, tensor: () => parameter });
    else if (form === "point") {
      stored.set(key, { dtype, shape: [...shape, 1, 1], tensor: () => parameter });
    } else if (form === "transposed") {
      stored.set(key, { dtype, shape: shape.toReversed(), tensor: () => parameter.transpose(0, 1) });
    } else {
      const parts = thirds.get(key) ?? [];
      thirds.set(key, parts);
      parts[form.part] = parameter;
      stored.set(key, { dtype, shape: [3 * shape[0]!, ...shape.slice(1)], tensor: () => cat(parts) });
    }
  }
  return stored;
}

function numberingOf(config: object): UNetNumbering {
  const { layers_per_block: layers = 2, up_block_types: up = [] } = config as UNetConfigInput;
  const [layersPerBlock = 2, ...others] = typeof layers === "number" ? [layers] : layers;
  if (others.some((other) => other !== layersPerBlock)) {
    throw new Error(`Expected one number for layers_per_block in a single file but received ${layers.toString()}`);
  }
  return { layersPerBlock, upAttends: up.map((type) => type === "CrossAttnUpBlock2D") };
}

const levelsOf = (config: object): number =>
  (config as { block_out_channels: readonly number[] }).block_out_channels.length;

/** transformers from 5.0 names a CLIPTextModel's parameters without the tower's `text_model`. */
const inTower =
  (names: Names): Names =>
  (key) =>
    names(/^(text_model|text_projection)\./.test(key) ? key : `text_model.${key}`);
