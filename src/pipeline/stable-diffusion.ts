/**
 * StableDiffusionPipeline: Stable Diffusion 1, 2 and XL from a diffusers folder, split into the steps that training
 * needs: prompts to embeddings, embeddings to guided predictions, latents to images. `model_index.json` decides whether
 * it is SDXL; the parts' configs decide the rest.
 *
 * Departures from diffusers' two pipelines: one class; no sampling loop, which is the caller's; no safety checker and
 * no watermark; SDXL is always conditioned on a crop at the origin and on the image's own size.
 */
import { z } from "zod";
import {
  ModelConfigError,
  TextKeyValues,
  type AutoencoderKL,
  type CLIPTextModel,
  type CLIPTextModelWithProjection,
  type UNet2DConditionModel,
} from "../models/index.js";
import type { Module } from "../nn/index.js";
import type { Scheduler } from "../schedulers/index.js";
import { saveSingleFile } from "../single-file/index.js";
import type { CLIPTokenizer } from "../tokenizer/index.js";
import {
  cat,
  computeDtype as defaultComputeDtype,
  isGradEnabled,
  noGrad,
  tensor,
  tidy,
  zerosLike,
  type Device,
  type DType,
  type Tensor,
} from "../torch/index.js";
import {
  conditionOn,
  predictGuided,
  type TextConditioning,
  type TextEmbeds,
  type TextGuidance,
} from "./conditioning.js";
import { decodeImages } from "./decode.js";
import {
  defineModel,
  type DiffusionModel,
  type ImageSize,
  type LongPrompt,
  type ModelOptions,
} from "./diffusion-model.js";
import { loadParts } from "./load.js";
import { isStableDiffusion, PIPELINES } from "./model-index.js";
import { Offload } from "./offload.js";
import type { Parts } from "./parts.js";
import { passMemory } from "./pass-memory.js";
import { encodeEachOnce, promptEmbeds } from "./prompt-embeds.js";
import { saveParts } from "./save.js";
import { latentSides } from "./sizes.js";

/** The projections of every attention of the UNet, as diffusers adapts them. */
const ATTENTION_PROJECTIONS: readonly string[] = ["to_q", "to_k", "to_v", "to_out.0"];

/** Stable Diffusion 1, 2 or XL, see the top of this file. Owns its weights: call `dispose`. */
export class StableDiffusionPipeline implements DiffusionModel {
  readonly family = "stable-diffusion";
  readonly denoiserName = "unet";
  readonly loraTargets = ATTENTION_PROJECTIONS;
  /** The dtype of forward passes, except for a VAE that would overflow in it. */
  readonly computeDtype: DType;
  readonly device: Device;
  readonly #parts: Parts;
  readonly #offload: Offload<"text" | "vae"> | undefined;

  private constructor(parts: Parts, options: ModelOptions) {
    const { dtype = "float32", device = "cpu", computeDtype = defaultComputeDtype(dtype, device) } = options;
    this.#parts = parts;
    this.computeDtype = computeDtype;
    this.device = device;
    const { textEncoder, textEncoder2, vae } = parts;
    const text = [textEncoder, textEncoder2].filter((part) => part !== undefined);
    this.#offload =
      options.offload === true && device !== "cpu" ? new Offload({ text, vae: [vae] }, device) : undefined;
    parts.unet.gradientCheckpointing = options.gradientCheckpointing === true;
    if (options.tiling === true) parts.vae.tiling = {};
  }

  get tokenizer(): CLIPTokenizer {
    return this.#parts.tokenizer;
  }
  get textEncoder(): CLIPTextModel {
    return this.#parts.textEncoder;
  }
  get tokenizer2(): CLIPTokenizer | undefined {
    return this.#parts.tokenizer2;
  }
  get textEncoder2(): CLIPTextModelWithProjection | undefined {
    return this.#parts.textEncoder2;
  }
  get unet(): UNet2DConditionModel {
    return this.#parts.unet;
  }
  get vae(): AutoencoderKL {
    return this.#parts.vae;
  }
  get scheduler(): Scheduler {
    return this.#parts.scheduler;
  }
  get denoiser(): UNet2DConditionModel {
    return this.#parts.unet;
  }
  get adaptable(): Readonly<Record<string, Module | undefined>> {
    const { unet, textEncoder, textEncoder2 } = this.#parts;
    return { unet, text_encoder: textEncoder, text_encoder_2: textEncoder2 };
  }
  get modules(): Readonly<Record<string, Module | undefined>> {
    return { ...this.adaptable, vae: this.#parts.vae };
  }
  get downscale(): number {
    return this.vae.downscale;
  }
  /** Whether this is SDXL: two text encoders, and conditioning on image sizes. */
  get isXL(): boolean {
    return this.#parts.index.isXL;
  }

  /**
   * Loads a model.
   *
   * @param path a folder in diffusers' layout with safetensors weights, or one safetensors file in the original layout
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  static fromPretrained(path: string, options: ModelOptions = {}): StableDiffusionPipeline {
    return new StableDiffusionPipeline(loadParts(path, options), options);
  }

  /**
   * A model of parts that are in memory, which it owns from now on.
   *
   * @param options the device and dtype that the parts are on and in, and what `fromPretrained` takes besides files
   */
  static fromParts(parts: Parts, options: Omit<ModelOptions, "variant" | "config"> = {}): StableDiffusionPipeline {
    return new StableDiffusionPipeline(parts, options);
  }

  /**
   * Writes a folder in diffusers' layout, atomically, with weights in their current dtype.
   *
   * @throws ModelConfigError unless the folder is empty or new
   */
  savePretrained(folder: string): void {
    saveParts(this.#parts, folder);
  }

  /** Writes one safetensors file in the original layout, atomically, with weights in their current dtype. */
  saveSingleFile(file: string): void {
    const channels = this.unet.config.in_channels;
    if (channels !== 4) {
      // Configs are inferred from the weights of such a file, with those of Stable Diffusion in mind.
      throw new ModelConfigError(
        `Expected a model with 4 channels of latents for the one file ${file} but received one with ${channels}; write a folder`,
      );
    }
    const family = this.isXL ? "sdxl" : this.unet.config.use_linear_projection ? "sd2" : "sd1";
    const { prediction_type: predicted = "epsilon" } = this.scheduler.toConfig();
    saveSingleFile(this.#parts, file, family, String(predicted));
  }

  /** Writes the UNet's folder, with weights in their current dtype. */
  saveDenoiser(folder: string): void {
    this.unet.savePretrained(folder);
  }

  longPrompts(prompts: readonly string[]): LongPrompt[] {
    const { modelMaxLength: most } = this.tokenizer;
    return prompts
      .map((prompt) => ({ prompt, tokens: this.tokenizer.tokenize(prompt).length + 2, most }))
      .filter(({ tokens }) => tokens > most);
  }

  /** Encodes prompts without gradient; repeated prompts are encoded once. */
  encodePrompts(prompts: readonly string[]): TextEmbeds {
    this.#offload?.keepOnly("text");
    return encodeEachOnce(prompts, (some) => this.#encode(some));
  }

  isGuided(guidanceScale: number): boolean {
    return guidanceScale > 1;
  }

  /**
   * The text of a batch; with guidance, its two passes form one batch of 2B rows.
   *
   * @param embeds one prompt per row of the batch, or one for all `batch` rows
   * @throws TypeError for guidance without negative prompts
   */
  condition(embeds: TextEmbeds, guidance: TextGuidance = {}, batch = embeds.rows): TextConditioning {
    return tidy(() => conditionOn(embeds, batch, guidance));
  }

  /**
   * Like `condition`, with the cross-attention keys and values precomputed, since every step shares them. No gradient.
   */
  prepare(embeds: TextEmbeds, guidance: TextGuidance = {}): TextConditioning {
    return noGrad(() => {
      const { text, pooled, timeIds, guidanceScale } = tidy(() => conditionOn(embeds, embeds.rows, guidance));
      const keyValues = this.unet.encodeText(text);
      text.dispose();
      const dispose = (): void => [keyValues, pooled, timeIds].forEach((states) => states?.dispose());
      return { guidanceScale, text: keyValues, pooled, timeIds, dispose };
    });
  }

  /**
   * The UNet's prediction (noise, or v), with guidance if the conditioning has it.
   *
   * @param latents float32 [B, C, h, w], on any device
   * @param timesteps one for all rows, or one per row
   * @returns float32 [B, C, h, w], on the latents' device
   * @throws Error if gradients are recorded with a prepared conditioning, which would miss those of to_k and to_v
   */
  predict(latents: Tensor, timesteps: number | readonly number[], conditioning: TextConditioning): Tensor {
    if (conditioning.text instanceof TextKeyValues && isGradEnabled()) {
      throw new Error("Expected noGrad for a prepared conditioning but received it where a gradient is recorded");
    }
    this.#offload?.keepOnly(null);
    return tidy(() => {
      const x = latents.to({ dtype: this.computeDtype, device: this.device });
      const guided = predictGuided(x, timesteps, conditioning.guidanceScale, (x, t) =>
        this.#predict(x, t, conditioning),
      );
      return guided.to({ device: latents.device });
    });
  }

  /**
   * Decodes latents to images, `batchSize` at a time.
   *
   * @param latents [B, C, h, w] from the sampler, on any device
   * @returns float32 [B, 3, H, W] in [0, 1], on the model's device
   */
  decode(latents: Tensor, { batchSize }: { batchSize?: number } = {}): Tensor {
    this.#offload?.keepOnly("vae");
    return decodeImages(this.vae, latents, { dtype: this.computeDtype, device: this.device, batchSize });
  }

  /**
   * Channels, height and width of the latents of an image.
   *
   * @throws InputError for a side that is not a multiple of the VAE's downscaling
   */
  latentShape(size: ImageSize = {}): [channels: number, height: number, width: number] {
    const trained = this.unet.config.sample_size ?? 64;
    const [trainedHeight = 64, trainedWidth = trainedHeight] = typeof trained === "number" ? [trained] : trained;
    const { downscale } = this.vae;
    const sides = { downscale, multiple: downscale, trained: [trainedHeight, trainedWidth] } as const;
    return [this.unet.config.in_channels, ...latentSides(size, sides)];
  }

  /** Frees the weights of all parts. */
  dispose(): void {
    for (const part of [this.textEncoder, this.textEncoder2, this.unet, this.vae]) part?.dispose();
  }

  #predict(x: Tensor, timesteps: number | readonly number[], prompts: TextConditioning): Tensor {
    const { text, pooled, timeIds } = prompts;
    const added = pooled && { textEmbeds: pooled, timeIds: timeIds ?? this.#timeIds(x) };
    return this.unet.forward(x, timesteps, text, { added }).to({ dtype: "float32" });
  }

  #encode(prompts: readonly string[]): TextEmbeds {
    const ids = (tokenizer: CLIPTokenizer) => tokenizer.encodeBatch(prompts).to({ device: this.device });
    const options = { dtype: this.computeDtype };
    const first = this.textEncoder.forward(ids(this.tokenizer), options);
    if (this.tokenizer2 === undefined || this.textEncoder2 === undefined) {
      return promptEmbeds({ hiddenStates: first.lastHiddenState });
    }
    const second = this.textEncoder2.forward(ids(this.tokenizer2), options);
    const hiddenStates = cat([first.penultimateHiddenState, second.penultimateHiddenState], -1);
    const pooled = second.textEmbeds;
    if (!this.#parts.index.forceZerosForEmptyPrompt || !prompts.includes("")) {
      return promptEmbeds({ hiddenStates, pooled });
    }
    const zeroed = (states: Tensor) => cat(states.split(1).map((row, i) => (prompts[i] === "" ? zerosLike(row) : row)));
    return promptEmbeds({ hiddenStates: zeroed(hiddenStates), pooled: zeroed(pooled) });
  }

  /** SDXL's size conditioning: original height and width, top and left of the crop, target height and width. */
  #timeIds({ shape }: Tensor): Tensor {
    const [batch, , height, width] = shape as [number, number, number, number];
    const size = [height * this.vae.downscale, width * this.vae.downscale];
    return tensor([[...size, 0, 0, ...size]], { device: this.device }).expand([batch, 6]);
  }
}

/** The source of CLIP's tokenizer for single-file checkpoints, which lack one. */
const CLIP_TOKENIZER = "openai/clip-vit-large-patch14";

/** The registry entry of Stable Diffusion 1, 2 and XL. */
export const stableDiffusion = defineModel({
  name: "stable-diffusion",
  summary: "Stable Diffusion 1.x, 2.x and XL",
  options: z.object({}),
  layout: `a folder whose model_index.json names ${PIPELINES.join(" or ")}, or one safetensors file of such a model`,
  repository: {
    weights: ["unet", "vae", "text_encoder"],
    optionalWeights: ["text_encoder_2"],
    settings: ["tokenizer", "tokenizer_2", "scheduler"],
  },
  decoder: "vae",
  companion: (path, config) =>
    path.endsWith(".safetensors")
      ? ({ path: config ?? CLIP_TOKENIZER, purpose: config === undefined ? "tokenizer" : "settings" } as const)
      : undefined,
  recognises: (path) => path.endsWith(".safetensors") || isStableDiffusion(path),
  loraTargets: ATTENTION_PROJECTIONS,
  passes: (guidanceScale) => (guidanceScale > 1 ? 2 : 1),
  passMemory,
  open: (path, options) => StableDiffusionPipeline.fromPretrained(path, options),
});
