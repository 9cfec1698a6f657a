/**
 * A text-to-image diffusion model as the method sees it: text in, a denoiser that learns, latents out and in, images.
 * A family (Stable Diffusion, and what comes after) implements this in a folder of its own and registers; nothing above
 * the pipelines knows UNets, VAEs or text encoders.
 *
 * Latents are float32 [B, ...latentShape], where the shape is the family's own (packed or not). A prediction is whatever
 * the scheduler takes for it: noise, v, a velocity.
 */
import type { z } from "zod";
import { InputError } from "../base/errors.js";
import { optionsOf, Registry, type Entry, type Named } from "../base/registry.js";
import { listOf } from "../base/show.js";
import type { DownloadPurpose, RepositoryLayout } from "../hub/index.js";
import type { Module } from "../nn/index.js";
import type { Scheduler } from "../schedulers/index.js";
import type { Device, DType, Tensor } from "../torch/index.js";
import type { PromptEmbeds } from "./prompt-embeds.js";

/** In pixels, multiples of `DiffusionModel.downscale`; what the model was trained on when left out. */
export interface ImageSize {
  readonly height?: number | undefined;
  readonly width?: number | undefined;
}

/** What a batch is conditioned on, ready for `predict`: each family's own. Made by `condition` or `prepare`. */
export interface Conditioning {
  dispose(): void;
}

export interface GuidanceOptions {
  /** Classifier-free guidance: prediction + (scale - 1) (prediction - that for `negative`). 1 is the plain prediction. */
  readonly guidanceScale?: number;
  /** A prompt for each row, or one for all; required when guided. */
  readonly negative?: PromptEmbeds | undefined;
}

export interface DiffusionModel {
  /** The family's registered name. */
  readonly family: string;
  /** What learns; a LoRA adapts its layers. */
  readonly denoiser: Module;
  /** The denoiser's folder in diffusers' layout, which is its prefix in LoRA files too: "unet" or "transformer". */
  readonly denoiserName: string;
  /** The layers that a LoRA adapts where the config names none, by the ends of their names. */
  readonly loraTargets: readonly string[];
  /** All models that a LoRA file can have layers for, by these prefixes; the denoiser is one. */
  readonly adaptable: Readonly<Record<string, Module | undefined>>;
  /** All models by their folders' names, for reports: parameters, and what they are held in. */
  readonly modules: Readonly<Record<string, Module | undefined>>;
  readonly scheduler: Scheduler;
  /** What forward passes compute in. */
  readonly computeDtype: DType;
  readonly device: Device;
  /** Sides of images are multiples of this: pixels that one latent, or one patch of latents, stands for. */
  readonly downscale: number;

  /** The shape of one image's latents. @throws InputError for a size that the model has none for */
  latentShape(size?: ImageSize): readonly number[];

  /** Encodes prompts, a row each, without gradient. A row does not depend on the others but for rounding. */
  encodePrompts(prompts: readonly string[]): PromptEmbeds;

  /** Whether a guidance scale takes a negative prompt, which doubles the work of a prediction. */
  isGuided(guidanceScale: number): boolean;

  /**
   * The conditioning of a batch for training: what of it depends on weights that learn is computed by `predict`. It holds
   * tensors of its own, since the embeds may be freed at once, and nothing but tensors: the step's tidy frees it.
   *
   * @param embeds one prompt a row of the batch
   * @throws TypeError for guidance without negative prompts
   */
  condition(embeds: PromptEmbeds, guidance?: GuidanceOptions): Conditioning;

  /**
   * The conditioning of a batch for the many steps of a sampler: what is the same at every step is computed here, once.
   * It carries no gradient, and holds until the denoiser's weights or its LoRA change. It is the caller's to dispose, holds
   * tensors of its own, and is made outside of any tidy.
   */
  prepare(embeds: PromptEmbeds, guidance?: GuidanceOptions): Conditioning;

  /**
   * The denoiser's prediction, guided or not.
   *
   * @param latents float32 [B, ...latentShape], on any device
   * @param timesteps of all rows, or one for each
   * @returns float32 [B, ...latentShape], on the latents' device
   */
  predict(latents: Tensor, timesteps: number | readonly number[], conditioning: Conditioning): Tensor;

  /** Final latents to images: float32 [B, 3, H, W] in 0..1, on the model's device. */
  decode(latents: Tensor): Tensor;

  /**
   * Writes the denoiser alone: `diffusion_pytorch_model.safetensors` with the keys of `denoiser.parameters()`, from which
   * full fine-tuning goes on, and a config where the family has one. Each file appears whole or not at all.
   */
  saveDenoiser(folder: string): void;

  /** Writes the whole model as a folder in diffusers' layout. @throws InputError when there is something in the folder */
  savePretrained(folder: string): void;

  /** Writes the whole model as one file in the original layout, where the family has one. */
  saveSingleFile?(file: string): void;

  /** Frees all weights. */
  dispose(): void;
}

/** How a model is loaded, whatever its family. A family may pass over what it has no use for, from `variant` on. */
export interface ModelOptions {
  /** What weights are held in; latents and predictions are float32 always. Default float32. */
  readonly dtype?: DType;
  /** What forward passes compute in. Default: `computeDtype` of the weights' dtype. */
  readonly computeDtype?: DType;
  readonly device?: Device;
  /** The images to come, for families whose schedule depends on it. Default: the model's own size. */
  readonly size?: ImageSize;
  /** The scheduler as a config names it. Default: the family's. */
  readonly scheduler?: Named;
  /** Weights of another form beside the plain ones, as "fp16"; parts that have none take the plain ones. */
  readonly variant?: string;
  /** For a single file, which has neither: a folder with tokenizers, and configs that count instead of those inferred. */
  readonly config?: string;
  /** Decode images larger than the model was trained on in overlapping tiles, so that memory does not grow with them. */
  readonly tiling?: boolean;
  /** Keep only what goes into each block of the denoiser, and compute the rest again in backward. */
  readonly gradientCheckpointing?: boolean;
}

/** Another model that a path needs beside its own files. */
export interface Companion {
  /** A folder, or a name on the hub. */
  readonly path: string;
  readonly purpose: DownloadPurpose;
}

/** A family of models, as `registerModel` takes it. */
export interface ModelFamily<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** How a model of the family is recognised, for errors: "a folder whose model_index.json names ...". */
  readonly layout: string;
  /** The scheduler of its models where a config names none. Default: DDIM with eta 1. */
  readonly scheduler?: Named;
  /** Which folders of a repository on the hub are its own. */
  readonly repository?: RepositoryLayout;
  /** What a model needs beside its own files: `ModelOptions.config` is where it lies. */
  companion?(path: string, config: string | undefined): Companion | undefined;
  /** Whether a folder or file holds a model of this family. Looks at names and configs only, and never throws. */
  recognises(path: string): boolean;
  /** Forward passes of the denoiser that one prediction takes at this guidance scale. For estimates. */
  passes(guidanceScale: number): number;
  /**
   * Loads a model.
   *
   * @param own the config's `model.options`, as the entry's own schema gave them
   * @throws InputError naming the file, and each key of it that is at fault; nothing stays in memory then
   */
  open(path: string, options: ModelOptions, own: z.output<O>): DiffusionModel;
}

/** A family of models whose functions take what its own schema gives. */
export const defineModel = <O extends z.ZodObject>(kind: ModelFamily<O>): ModelFamily => kind;

/** The scheduler of a family's models where a config names none. */
export const schedulerOf = ({ scheduler = { name: "ddim" } }: Pick<ModelFamily, "scheduler">): Named => scheduler;

/** Every family of models; which one a model is of is seen from its files. */
export const modelFamilies = new Registry<ModelFamily>("model family");

/**
 * The family of a folder or file. Of several that recognise it the one that was registered last counts.
 *
 * @throws InputError saying what the families look for
 */
export function familyOf(path: string): ModelFamily {
  const families = modelFamilies.entries();
  const found = families.findLast((family) => family.recognises(path));
  if (found !== undefined) return found;
  throw new InputError(
    `${path}: Expected ${listOf(families.map(({ layout }) => layout))}; ` +
      "a family of your own comes with --plugin (or loadPlugins)",
  );
}

/**
 * Loads a model of any family.
 *
 * @param own options of the family's own
 * @throws InputError naming the file, and each key of it that is at fault; or the option
 */
export function openModel(
  path: string,
  options: ModelOptions = {},
  own: Readonly<Record<string, unknown>> = {},
): DiffusionModel {
  const family = familyOf(path);
  const unknown = Object.keys(own).find((key) => !Object.hasOwn(family.options.shape, key));
  if (unknown !== undefined) {
    const known = Object.keys(family.options.shape);
    const expected = known.length === 0 ? "no options" : `options ${listOf(known, "and")}`;
    throw new InputError(`Expected ${expected} for a model of ${family.name} but received model.options.${unknown}`);
  }
  const scheduler = options.scheduler ?? schedulerOf(family);
  return family.open(path, { ...options, scheduler }, optionsOf(family, { name: family.name, ...own }));
}
