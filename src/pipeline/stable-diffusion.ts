/**
 * StableDiffusionPipeline: Stable Diffusion 1, 2 and XL from a diffusers folder, taken apart into the steps that
 * training needs: prompts to embeddings, embeddings to guided noise, latents to images. `model_index.json` decides
 * whether it is SDXL; the parts' own configs decide the rest.
 *
 * Departures from diffusers' two pipelines: one class; no sampling loop, which is the caller's; no safety checker and
 * no watermark; the crop of SDXL's conditions is always at the origin and its sizes are the image's own.
 */
import type {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  UNet2DConditionModel,
} from "../models/index.js";
import type { DDIMScheduler } from "../schedulers/index.js";
import { saveSingleFile } from "../single-file/index.js";
import type { CLIPTokenizer } from "../tokenizer/index.js";
import {
  cat,
  computeDtype as computeDtypeOf,
  isGradEnabled,
  noGrad,
  tensor,
  tidy,
  zerosLike,
  type Device,
  type DType,
  type Tensor,
} from "../torch/index.js";
import { guide, isPrepared, type GuidanceOptions, type GuidedPrompts, type PreparedPrompts } from "./guidance.js";
import { loadParts, saveParts, type Parts, type PipelineOptions } from "./parts.js";
import { catPrompts, promptEmbeds, type PromptEmbeds } from "./prompt-embeds.js";

/** In pixels, multiples of the VAE's downscaling; what the model was trained on when left out. */
export interface ImageSize {
  readonly height?: number;
  readonly width?: number;
}

/** Texts encoded at a time. */
const PROMPTS_AT_ONCE = 64;

/**
 * Pixels decoded at a time: 32 pictures of 64x64, or one of 512x512. Larger activations are mapped anew by the allocator
 * and leave the caches: 144 pictures of 64x64 took 931 ms of processor time in one batch and 684 ms in batches of 36.
 */
const PIXELS_AT_ONCE = 2 ** 17;

export class StableDiffusionPipeline {
  readonly tokenizer: CLIPTokenizer;
  readonly textEncoder: CLIPTextModel;
  readonly tokenizer2: CLIPTokenizer | undefined;
  readonly textEncoder2: CLIPTextModelWithProjection | undefined;
  readonly unet: UNet2DConditionModel;
  readonly vae: AutoencoderKL;
  readonly scheduler: DDIMScheduler;
  readonly #parts: Parts;
  /** What the parts compute in, but for a VAE that would overflow. */
  readonly computeDtype: DType;
  readonly #device: Device;

  private constructor(
    parts: Parts,
    { dtype = "float32", device = "cpu", computeDtype = computeDtypeOf(dtype, device) }: PipelineOptions,
  ) {
    this.#parts = parts;
    this.tokenizer = parts.tokenizer;
    this.textEncoder = parts.textEncoder;
    this.tokenizer2 = parts.tokenizer2;
    this.textEncoder2 = parts.textEncoder2;
    this.unet = parts.unet;
    this.vae = parts.vae;
    this.scheduler = parts.scheduler;
    this.computeDtype = computeDtype;
    this.#device = device;
  }

  /**
   * @param path a folder in diffusers' layout, weights as safetensors; or one safetensors file in the original layout
   * @throws an error naming the file, and each key of it that is at fault; nothing stays in memory then
   */
  static fromPretrained(path: string, options: PipelineOptions = {}): StableDiffusionPipeline {
    return new StableDiffusionPipeline(loadParts(path, options), options);
  }

  /**
   * Writes a folder in diffusers' layout, weights in the dtype they are held in; it appears whole or not at all.
   *
   * @throws ModelConfigError when there is something in the folder
   */
  savePretrained(folder: string): void {
    saveParts(this.#parts, folder);
  }

  /** Writes one safetensors file in the original layout, weights in the dtype they are held in; atomic. */
  saveSingleFile(file: string): void {
    const family = this.isXL ? "sdxl" : this.unet.config.use_linear_projection ? "sd2" : "sd1";
    saveSingleFile(this.#parts, file, family, this.scheduler.config.prediction_type);
  }

  /** Two text encoders and conditions on sizes. */
  get isXL(): boolean {
    return this.#parts.index.isXL;
  }

  /** Encodes prompts, without gradient; a prompt that comes several times is encoded once. */
  encodePrompts(prompts: readonly string[]): PromptEmbeds {
    const unique = [...new Set(prompts)];
    const rows = new Map(unique.map((prompt, row) => [prompt, row]));
    const embeds = noGrad(() =>
      tidy(() => {
        const parts: PromptEmbeds[] = [];
        for (let start = 0; start < unique.length; start += PROMPTS_AT_ONCE) {
          parts.push(tidy(() => this.#encode(unique.slice(start, start + PROMPTS_AT_ONCE))));
        }
        return parts.length === 1 ? parts[0]! : catPrompts(parts);
      }),
    );
    if (unique.length === prompts.length) return embeds;
    const repeated = embeds.select(prompts.map((prompt) => rows.get(prompt)!));
    embeds.dispose();
    return repeated;
  }

  /**
   * Prompts for the many steps of a sampler: the keys and values that the UNet's attention makes of their text are the
   * same at every step, and taken here once. They hold until the UNet's weights or its LoRA change, and carry no
   * gradient.
   *
   * @param embeds one prompt a row of the batch
   * @throws TypeError for guidance without negative prompts
   */
  prepare(embeds: PromptEmbeds, guidance: GuidanceOptions = {}): PreparedPrompts {
    return noGrad(() => {
      const { text, ...others } = tidy(() => guide(embeds, embeds.hiddenStates.size(0), guidance));
      const keyValues = this.unet.encodeText(text);
      text.dispose();
      const { pooled, timeIds } = others;
      const dispose = (): void => [keyValues, pooled, timeIds].forEach((states) => states?.dispose());
      return { ...others, text: keyValues, dispose };
    });
  }

  /**
   * What the UNet predicts (noise, or v), guided or not: the two passes of guidance are one batch.
   *
   * @param latents float32 [B, C, h, w], on any device
   * @param timesteps of all rows, or one for each
   * @param prompts one a row, or one for all; or what `prepare` made of them and of the guidance
   * @returns float32 [B, C, h, w], on the latents' device
   * @throws Error where a gradient is recorded and the prompts are prepared, which cuts to_k and to_v off from it
   */
  predictNoise(
    latents: Tensor,
    timesteps: number | readonly number[],
    prompts: PromptEmbeds | PreparedPrompts,
    guidance: GuidanceOptions = {},
  ): Tensor {
    if (isPrepared(prompts) && isGradEnabled()) {
      throw new Error("Expected noGrad for prepared prompts but received them where a gradient is recorded");
    }
    return tidy(() => {
      const x = latents.to({ dtype: this.computeDtype, device: this.#device });
      const guided = isPrepared(prompts) ? prompts : guide(prompts, latents.size(0), guidance);
      return this.#predictGuided(x, timesteps, guided).to({ device: latents.device });
    });
  }

  /**
   * Latents to pictures, a few at a time.
   *
   * @param latents [B, C, h, w], as the sampler leaves them, on any device
   * @returns float32 [B, 3, H, W] in [0, 1], on the model's device
   */
  decode(latents: Tensor, { batchSize = this.#imagesAtOnce(latents) }: { batchSize?: number } = {}): Tensor {
    if (!(batchSize >= 1)) throw new RangeError(`Expected 1 or more for batchSize but received ${batchSize}`);
    // SD's and SDXL's VAE overflow in float16.
    const overflows = this.vae.config.force_upcast && this.computeDtype === "float16";
    const dtype = overflows ? "float32" : this.computeDtype;
    return tidy(() => {
      const scaled = latents.div(this.vae.config.scaling_factor).to({ dtype, device: this.#device });
      const images = scaled.split(batchSize).map((some) =>
        tidy(() => {
          const image = this.vae.decode(some).to({ dtype: "float32" });
          return image.div(2).add(0.5).clamp({ min: 0, max: 1 });
        }),
      );
      return images.length === 1 ? images[0]! : cat(images);
    });
  }

  /**
   * Channels, height and width of the latents of a picture.
   *
   * @throws RangeError for a side that is no multiple of the VAE's downscaling
   */
  latentShape({ height, width }: ImageSize = {}): [channels: number, height: number, width: number] {
    const trained = this.unet.config.sample_size ?? 64;
    const [trainedHeight = 64, trainedWidth = trainedHeight] = typeof trained === "number" ? [trained] : trained;
    const factor = this.vae.downscale;
    const side = (name: string, pixels: number | undefined, otherwise: number): number => {
      if (pixels === undefined) return otherwise;
      if (Number.isInteger(pixels) && pixels > 0 && pixels % factor === 0) return pixels / factor;
      throw new RangeError(`Expected a positive multiple of ${factor} for ${name} but received ${pixels}`);
    };
    const { in_channels: channels } = this.unet.config;
    return [channels, side("height", height, trainedHeight), side("width", width, trainedWidth)];
  }

  /** Frees the weights of all parts. */
  dispose(): void {
    for (const part of [this.textEncoder, this.textEncoder2, this.unet, this.vae]) part?.dispose();
  }

  #predictGuided(x: Tensor, timesteps: number | readonly number[], prompts: GuidedPrompts): Tensor {
    const { guidanceScale } = prompts;
    if (guidanceScale === 1) return this.#predict(x, timesteps, prompts);
    const twice = typeof timesteps === "number" ? timesteps : [...timesteps, ...timesteps];
    const [without, withText] = this.#predict(cat([x, x]), twice, prompts).chunk(2) as [Tensor, Tensor];
    return without.add(withText.sub(without).mul(guidanceScale));
  }

  #predict(x: Tensor, timesteps: number | readonly number[], prompts: GuidedPrompts): Tensor {
    const { text, pooled, timeIds = this.#timeIds(x) } = prompts;
    const added = pooled && { textEmbeds: pooled, timeIds };
    return this.unet.forward(x, timesteps, text, { added }).to({ dtype: "float32" });
  }

  #encode(prompts: readonly string[]): PromptEmbeds {
    const ids = (tokenizer: CLIPTokenizer) => tokenizer.encodeBatch(prompts).to({ device: this.#device });
    const options = { dtype: this.computeDtype };
    const first = this.textEncoder.forward(ids(this.tokenizer), options);
    if (this.tokenizer2 === undefined || this.textEncoder2 === undefined) return promptEmbeds(first.lastHiddenState);
    const second = this.textEncoder2.forward(ids(this.tokenizer2), options);
    const hiddenStates = cat([first.penultimateHiddenState, second.penultimateHiddenState], -1);
    const pooled = second.textEmbeds;
    if (!this.#parts.index.forceZerosForEmptyPrompt || !prompts.includes("")) return promptEmbeds(hiddenStates, pooled);
    const zeroed = (states: Tensor) => cat(states.split(1).map((row, i) => (prompts[i] === "" ? zerosLike(row) : row)));
    return promptEmbeds(zeroed(hiddenStates), zeroed(pooled));
  }

  /** SDXL's conditions on sizes: original height and width, top and left of the crop, target height and width. */
  #timeIds({ shape }: Tensor): Tensor {
    const [batch, , height, width] = shape as [number, number, number, number];
    const size = [height * this.vae.downscale, width * this.vae.downscale];
    return tensor([[...size, 0, 0, ...size]], { device: this.#device }).expand([batch, 6]);
  }

  #imagesAtOnce({ shape: [, , height = 1, width = 1] }: Tensor): number {
    const pixels = height * width * this.vae.downscale ** 2;
    return Math.max(1, Math.floor(PIXELS_AT_ONCE / pixels));
  }
}
