/**
 * StableDiffusion3Pipeline: Stable Diffusion 3 and 3.5 from a diffusers folder or a single file, split into the steps that
 * training needs: prompts to embeddings, embeddings to guided velocities, latents to images. The parts' configs decide which of
 * its models it is.
 *
 * Departures from diffusers' pipeline: no sampling loop, which is the caller's; one prompt for all three text encoders;
 * no IP adapter and no skipped layers (`skip_guidance_layers`).
 */
import { z } from "zod";
import { InputError } from "../base/errors.js";
import type { AutoencoderKL, SD3Transformer2DModel } from "../models/index.js";
import type { Module } from "../nn/index.js";
import type { Scheduler } from "../schedulers/index.js";
import {
  computeDtype as defaultComputeDtype,
  noGrad,
  tidy,
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
import { Offload } from "./offload.js";
import { encodeEachOnce } from "./prompt-embeds.js";
import {
  companionOfFile,
  FLOW_MATCH,
  isStableDiffusion3,
  loadSD3Parts,
  saveSD3File,
  saveSD3Parts,
  SD3_PIPELINE,
  sd3PartFolder,
} from "./sd3-load.js";
import { textEncoders, textParts, type SD3Parts } from "./sd3-parts.js";
import { sd3PassMemory } from "./sd3-pass-memory.js";
import { encodeText } from "./sd3-text.js";
import { latentSides } from "./sizes.js";

/** The projections of image and text in every joint attention, as diffusers' training script for SD3 adapts them. */
const JOINT_PROJECTIONS: readonly string[] = [
  ...["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0"],
  ...["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"],
];

const options = z.object({
  maxSequenceLength: z
    .int()
    .min(1)
    .max(512)
    .default(256)
    .describe(
      "stable-diffusion-3: tokens of a prompt that T5 reads, and of the text that the transformer attends to besides CLIP's 77. Another number gives other pictures.",
    ),
});

/** Stable Diffusion 3 or 3.5, see the top of this file. Owns its weights: call `dispose`. */
export class StableDiffusion3Pipeline implements DiffusionModel {
  readonly family = "stable-diffusion-3";
  readonly denoiserName = "transformer";
  readonly loraTargets = JOINT_PROJECTIONS;
  /** The dtype of forward passes, but for T5 and a VAE that would overflow in it: float32 in place of float16. */
  readonly computeDtype: DType;
  readonly device: Device;
  readonly #parts: SD3Parts;
  readonly #maxSequenceLength: number;
  readonly #offload: Offload<"vae"> | undefined;

  private constructor(parts: SD3Parts, modelOptions: ModelOptions, own: z.input<typeof options>) {
    const { dtype = "float32", device = "cpu", computeDtype = defaultComputeDtype(dtype, device) } = modelOptions;
    this.#parts = parts;
    this.#maxSequenceLength = options.parse(own).maxSequenceLength;
    this.computeDtype = computeDtype;
    this.device = device;
    const away = modelOptions.offload === true && device !== "cpu";
    this.#offload = away ? new Offload({ vae: [parts.vae] }, device) : undefined;
    if (modelOptions.tiling === true) parts.vae.tiling = {};
  }

  /**
   * Loads a model.
   *
   * @param path a folder in diffusers' layout with safetensors weights; text encoders may be null in its index,
   *   which may name another folder's VAE. Or one safetensors file in the original layout
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  static fromPretrained(
    path: string,
    modelOptions: ModelOptions = {},
    own: z.input<typeof options> = {},
  ): StableDiffusion3Pipeline {
    return new StableDiffusion3Pipeline(loadSD3Parts(path, modelOptions), modelOptions, own);
  }

  get transformer(): SD3Transformer2DModel {
    const { transformer } = this.#parts;
    // With offload text encoders leave before it comes.
    if (transformer.loaded === undefined) this.#makeRoom();
    return transformer.model;
  }
  get vae(): AutoencoderKL {
    return this.#parts.vae;
  }
  get scheduler(): Scheduler {
    return this.#parts.scheduler;
  }
  get denoiser(): SD3Transformer2DModel {
    return this.transformer;
  }
  get adaptable(): Readonly<Record<string, Module | undefined>> {
    const { clips, t5 } = this.#parts;
    const transformer = () => this.transformer;
    // Each is loaded when it is asked for, and an encoder stays from then on, as it may be adapted.
    return {
      get transformer() {
        return transformer();
      },
      get text_encoder() {
        return clips[0]?.encoder.keep();
      },
      get text_encoder_2() {
        return clips[1]?.encoder.keep();
      },
      get text_encoder_3() {
        return t5?.encoder.keep();
      },
    };
  }
  /** Those in memory. */
  get modules(): Readonly<Record<string, Module | undefined>> {
    const { transformer, vae, ...texts } = this.#parts;
    const encoders = textParts(texts).map(([suffix, part]) => [`text_encoder${suffix}`, part?.encoder.loaded]);
    const named = Object.fromEntries(encoders) as Readonly<Record<string, Module | undefined>>;
    return { transformer: transformer.loaded, ...named, vae };
  }
  /** Sides of images are multiples of this: a patch of latents. */
  get downscale(): number {
    return this.vae.downscale * this.#parts.transformer.config.patch_size;
  }

  /**
   * Writes a folder in diffusers' layout, atomically, with weights in their current dtype.
   *
   * @throws ModelConfigError unless the folder is empty or new
   */
  savePretrained(folder: string): void {
    saveSD3Parts(this.#parts, folder);
  }

  /** Writes one safetensors file in the original layout, atomically, with weights in their current dtype. */
  saveSingleFile(file: string): void {
    saveSD3File(this.#parts, file);
  }

  /** Writes the transformer's folder, with weights in their current dtype. */
  saveDenoiser(folder: string): void {
    this.transformer.savePretrained(folder);
  }

  /** Those that the encoder with the most tokens does not read whole: T5, or CLIP without it. */
  longPrompts(prompts: readonly string[]): LongPrompt[] {
    const { t5, clips } = this.#parts;
    const clip = clips.find((part) => part !== undefined)?.tokenizer;
    const most = t5 === undefined ? clip!.modelMaxLength : this.#maxSequenceLength;
    const count = (prompt: string): number =>
      t5 === undefined
        ? clip!.tokenize(prompt).length + 2
        : t5.tokenizer.tokenize(prompt).length + t5.tokenizer.specialIds.length;
    return prompts.map((prompt) => ({ prompt, tokens: count(prompt), most })).filter(({ tokens }) => tokens > most);
  }

  /** Encodes prompts without gradient; repeated prompts are encoded once. */
  encodePrompts(prompts: readonly string[]): TextEmbeds {
    this.#offload?.keepOnly(null);
    const { computeDtype: dtype, device } = this;
    const encoding = { dtype, device, maxSequenceLength: this.#maxSequenceLength };
    return encodeEachOnce(prompts, (some) => encodeText(this.#parts, some, encoding));
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

  /** The same: text and image change together in every block, so that no step shares more than the text. */
  prepare(embeds: TextEmbeds, guidance: TextGuidance = {}): TextConditioning {
    return noGrad(() => this.condition(embeds, guidance));
  }

  /**
   * The transformer's velocity, with guidance if the conditioning has it.
   *
   * @param latents float32 [B, C, h, w], on any device
   * @param timesteps one for all rows, or one per row
   * @returns float32 [B, C, h, w], on the latents' device
   */
  predict(latents: Tensor, timesteps: number | readonly number[], conditioning: TextConditioning): Tensor {
    this.#makeRoom();
    const { guidanceScale, text, pooled } = conditioning;
    const states = { encoderHiddenStates: text as Tensor, pooledProjections: pooled! };
    return tidy(() => {
      const x = latents.to({ dtype: this.computeDtype, device: this.device });
      const guided = predictGuided(x, timesteps, guidanceScale, (x, timesteps) =>
        this.transformer.forward(x, timesteps, states).to({ dtype: "float32" }),
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
    this.#makeRoom("vae");
    return decodeImages(this.vae, latents, { dtype: this.computeDtype, device: this.device, batchSize });
  }

  /**
   * Channels, height and width of the latents of an image.
   *
   * @throws InputError for a side that is no multiple of `downscale`, or longer than the transformer has positions
   */
  latentShape(size: ImageSize = {}): [channels: number, height: number, width: number] {
    const {
      in_channels: channels,
      sample_size: side,
      patch_size: patch,
      pos_embed_max_size: most,
    } = this.#parts.transformer.config;
    const { downscale } = this.vae;
    const sides = latentSides(size, { downscale, multiple: this.downscale, trained: [side, side] });
    const tooLong = sides.find((latents) => latents > most * patch);
    if (tooLong !== undefined) {
      throw new InputError(
        `Expected at most ${most * this.downscale} pixels, the positions of the transformer, for a side of an image but received ${tooLong * downscale}`,
      );
    }
    return [channels, ...sides];
  }

  /** Frees the weights of all parts. */
  dispose(): void {
    for (const part of Object.values(this.modules)) part?.dispose();
  }

  /** With offload: frees the text encoders, and sends the VAE away unless it is what computes. */
  #makeRoom(computes: "vae" | null = null): void {
    this.#offload?.keepOnly(computes);
    for (const encoder of textEncoders(this.#parts)) encoder.free();
  }
}

/** The registry entry of Stable Diffusion 3 and 3.5. */
export const stableDiffusion3 = defineModel({
  name: "stable-diffusion-3",
  summary: "Stable Diffusion 3 and 3.5",
  options,
  layout: `a folder whose model_index.json names ${SD3_PIPELINE}, or one safetensors file of such a model`,
  scheduler: FLOW_MATCH,
  repository: {
    weights: ["transformer", "vae"],
    optionalWeights: ["text_encoder", "text_encoder_2", "text_encoder_3"],
    settings: ["tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"],
  },
  decoder: "vae",
  partFolder: sd3PartFolder,
  freesEncoders: true,
  keptInHalf: ["text_encoder_3"],
  companion: companionOfFile,
  recognises: isStableDiffusion3,
  buffers: ["pos_embed.pos_embed"],
  loraTargets: JOINT_PROJECTIONS,
  passes: (guidanceScale) => (guidanceScale > 1 ? 2 : 1),
  passMemory: sd3PassMemory,
  open: (path, modelOptions, own) => StableDiffusion3Pipeline.fromPretrained(path, modelOptions, own),
});
