/**
 * The interface of a text-to-image diffusion model: it encodes prompts, predicts with a trainable denoiser, and decodes
 * latents to images. Each family, such as Stable Diffusion, implements and registers it; code above the pipelines knows
 * no UNets, VAEs or text encoders.
 *
 * Latents are float32 [B, ...latentShape], with a shape that the family chooses (packed or not). Predictions are what
 * the scheduler expects: noise, v or a velocity.
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

/** Sides in pixels, multiples of `DiffusionModel.downscale`. Default: the size the model was trained on. */
export interface ImageSize {
  readonly height?: number | undefined;
  readonly width?: number | undefined;
}

/** The text of a batch, ready for `predict`. Made by `condition` or `prepare`; each family defines its own contents. */
export interface Conditioning {
  /** Frees its tensors. */
  dispose(): void;
}

/** A prompt whose end the text encoder does not read. */
export interface LongPrompt {
  readonly prompt: string;
  /** How many tokens it has, and how many the encoder reads, both with begin and end. */
  readonly tokens: number;
  readonly most: number;
}

/** Options of classifier-free guidance. */
export interface GuidanceOptions {
  /** p + (scale - 1) (p - p_negative), where p_negative is the prediction for `negative`. 1 is the plain prediction. */
  readonly guidanceScale?: number;
  /** One prompt per row, or one for all; required when guided. */
  readonly negative?: PromptEmbeds | undefined;
}

/** A loaded model, see the top of this file. Owns its weights: call `dispose`. */
export interface DiffusionModel {
  /** The family's registered name. */
  readonly family: string;
  /** The network that is trained, or whose layers a LoRA adapts. */
  readonly denoiser: Module;
  /** The denoiser's folder in diffusers' layout, also its prefix in LoRA files: "unet" or "transformer". */
  readonly denoiserName: string;
  /** Default layers for a LoRA to adapt, by the ends of their names. */
  readonly loraTargets: readonly string[];
  /** All models that a LoRA file can adapt, by their prefixes in the file; the denoiser is one. */
  readonly adaptable: Readonly<Record<string, Module | undefined>>;
  /** All models by their folders' names, for reports on parameters and dtypes. */
  readonly modules: Readonly<Record<string, Module | undefined>>;
  readonly scheduler: Scheduler;
  /** The dtype of forward passes. */
  readonly computeDtype: DType;
  readonly device: Device;
  /** Sides of images are multiples of this: pixels that one latent, or one patch of latents, stands for. */
  readonly downscale: number;

  /** The shape of one image's latents. @throws InputError for a size that the model does not support */
  latentShape(size?: ImageSize): readonly number[];

  /** Encodes prompts, one row each, without gradient. A row depends on the others only through rounding. */
  encodePrompts(prompts: readonly string[]): PromptEmbeds;

  /** Those of the prompts that are too long to be read whole, if the family can tell. */
  longPrompts?(prompts: readonly string[]): readonly LongPrompt[];

  /** Whether a guidance scale needs a negative prompt, which doubles the work of a prediction. */
  isGuided(guidanceScale: number): boolean;

  /**
   * The conditioning of a batch for training; everything that depends on trained weights is computed by `predict`. It
   * has its own tensors, because the embeds may be freed right away, and holds nothing else, so that the step's tidy
   * frees it.
   *
   * @param embeds one prompt per row of the batch
   * @throws TypeError for guidance without negative prompts
   */
  condition(embeds: PromptEmbeds, guidance?: GuidanceOptions): Conditioning;

  /**
   * The conditioning of a batch for all steps of a sampler: what every step needs is computed once, here. Without
   * gradient; valid until the denoiser's weights or its LoRA change. It has its own tensors, which the caller disposes
   * of; call this outside of any tidy.
   */
  prepare(embeds: PromptEmbeds, guidance?: GuidanceOptions): Conditioning;

  /**
   * The denoiser's prediction, with guidance if the conditioning has it.
   *
   * @param latents float32 [B, ...latentShape], on any device
   * @param timesteps one for all rows, or one per row
   * @returns float32 [B, ...latentShape], on the latents' device
   */
  predict(latents: Tensor, timesteps: number | readonly number[], conditioning: Conditioning): Tensor;

  /** Decodes final latents to images: float32 [B, 3, H, W] in 0..1, on the model's device. */
  decode(latents: Tensor): Tensor;

  /**
   * Writes only the denoiser: `diffusion_pytorch_model.safetensors` with the keys of `denoiser.parameters()`, from
   * which full fine-tuning is resumed, and a config if the family has one. Each file is written atomically.
   */
  saveDenoiser(folder: string): void;

  /** Writes the whole model as a folder in diffusers' layout. @throws InputError unless the folder is empty or new */
  savePretrained(folder: string): void;

  /** Writes the whole model as one file in the original layout, if the family has one. Atomic. */
  saveSingleFile?(file: string): void;

  /** Frees all weights. */
  dispose(): void;
}

/** How a model of any family is loaded. A family may ignore options from `variant` on. */
export interface ModelOptions {
  /** The dtype of the weights; latents and predictions are always float32. Default float32. */
  readonly dtype?: DType;
  /** The dtype of forward passes. Default: `computeDtype` of the weights' dtype. */
  readonly computeDtype?: DType;
  readonly device?: Device;
  /** The images to come, for families whose schedule depends on it. Default: the model's own size. */
  readonly size?: ImageSize;
  /** The scheduler as a config names it. Default: the family's. */
  readonly scheduler?: Named;
  /** Variant of the weights, such as "fp16"; parts without it use the plain weights. */
  readonly variant?: string;
  /** For a single file: a folder with the tokenizers that it lacks, and configs that replace the inferred ones. */
  readonly config?: string;
  /** Decode images larger than the training size in overlapping tiles, so that memory does not grow with image size. */
  readonly tiling?: boolean;
  /**
   * Keep parts that do not compute at the moment in main memory, or free them, the denoiser aside: the same bits in less
   * memory.
   */
  readonly offload?: boolean;
  /** Keep only the inputs of each denoiser block, and recompute the rest in the backward pass. */
  readonly gradientCheckpointing?: boolean;
}

/** Another model that a model needs besides its own files, such as a tokenizer. */
export interface Companion {
  /** A folder, or a name on the hub. */
  readonly path: string;
  /** Which of its files are needed. */
  readonly purpose: DownloadPurpose;
  /** Besides settings: the folders whose weights are needed too, where it has them. */
  readonly weights?: readonly string[];
}

/** What a model computes in, and the size of its images. */
export interface PassSetting extends ImageSize {
  /** Of the weights that are not trained, and of the forward passes. */
  readonly dtype: DType;
  readonly computeDtype: DType;
  readonly device: Device;
  readonly tiling: boolean;
  /** Whether libtorch has attention of its own that holds no scores (2.x). */
  readonly fusedAttention: boolean;
  /** What is trained: nothing, all of the denoiser, or a LoRA. */
  readonly trains: "nothing" | "all" | { readonly rank: number; readonly targets: readonly string[] };
  readonly gradientCheckpointing: boolean;
}

/** The bytes of passes besides weights, and of a sample's latents. */
export interface PassMemory {
  /** Elements of the latents of an image. */
  readonly latents: number;
  /** A denoising step of so many rows, both passes of guidance counted. */
  forward(rows: number): number;
  /** Forward and backward of so many rows; the gradients of parameters are not counted. */
  training(rows: number): number;
  /** Decoding so many images, of which the model may do some at a time. */
  decoding(images: number): number;
}

/** A model family as `registerModel` takes it. */
export interface ModelFamily<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** What a model of the family looks like on disk, for errors: "a folder whose model_index.json names ...". */
  readonly layout: string;
  /** The scheduler of its models where a config names none. Default: DDIM with eta 1. */
  readonly scheduler?: Named;
  /** Which folders of a repository on the hub are its own. */
  readonly repository?: RepositoryLayout;
  /**
   * For families that honour `ModelOptions.offload`: which of `repository.weights` decodes images. It waits apart from the
   * rest, which encodes prompts.
   */
  readonly decoder?: string;
  /** Where a part of `repository` lies, if not in the subfolder of its name; null for one that the folder does without. */
  partFolder?(path: string, part: string): string | null;
  /** For families that free what encodes prompts with `ModelOptions.offload`, and load it again when it is called. */
  readonly freesEncoders?: boolean;
  /** Parts whose weights stay in half precision where their files have them so, whatever the model's dtype. */
  readonly keptInHalf?: readonly string[];
  /** What a model needs besides its own files; once downloaded, it is passed as `ModelOptions.config`. */
  companion?(path: string, config: string | undefined): Companion | undefined;
  /** Whether a folder or file holds a model of this family. Checks names and configs only, and never throws. */
  recognises(path: string): boolean;
  /** Keys of the denoiser that never learn. For estimates. */
  readonly buffers?: readonly string[];
  /** `DiffusionModel.loraTargets`, for estimates before a model is loaded. */
  readonly loraTargets?: readonly string[];
  /** Forward passes of the denoiser per prediction at this guidance scale. For estimates. */
  passes(guidanceScale: number): number;
  /**
   * Bytes of a model's passes besides its weights, from its configs; undefined where they are not known. For estimates.
   *
   * @param own the config's `model.options`, parsed by the entry's own schema
   */
  passMemory?(path: string, setting: PassSetting, own: z.output<O>): PassMemory | undefined;
  /**
   * Loads a model.
   *
   * @param own the config's `model.options`, parsed by the entry's own schema
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  open(path: string, options: ModelOptions, own: z.output<O>): DiffusionModel;
}

/** Types a family's functions by its own options schema. */
export const defineModel = <O extends z.ZodObject>(kind: ModelFamily<O>): ModelFamily => kind;

/** The scheduler of a family's models where a config names none. */
export const schedulerOf = ({ scheduler = { name: "ddim" } }: Pick<ModelFamily, "scheduler">): Named => scheduler;

/** Every family of models; which one a model is of is seen from its files. */
export const modelFamilies = new Registry<ModelFamily>("model family");

/**
 * The family of a folder or file. If several recognise it, the one registered last wins.
 *
 * @throws InputError saying what the families expect
 */
export function familyOf(path: string): ModelFamily {
  const families = modelFamilies.entries();
  const found = families.findLast((family) => family.recognises(path));
  if (found !== undefined) return found;
  throw new InputError(
    `${path}: Expected ${listOf(families.map(({ layout }) => layout))}; ` +
      "load a family of your own with --plugin (or loadPlugins)",
  );
}

/**
 * Loads a model of any family.
 *
 * @param own the family's own options, `model.options` of the config
 * @throws InputError naming the file and every key at fault, or the unknown option
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
