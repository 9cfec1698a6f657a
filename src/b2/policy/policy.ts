/**
 * The policy pi_theta(x_{t-1} | x_t, c): a diffusion model whose denoiser learns, through a LoRA or as a whole, and the
 * scheduler that turns its predictions into a distribution. Log-probs are float32 whatever the model's dtype.
 */
import { InputError } from "../../base/errors.js";
import type { RunContext } from "../../base/progress.js";
import { loadLora, LoraAdapter } from "../../lora/index.js";
import {
  openModel,
  schedulerOf,
  type Conditioning,
  type DiffusionModel,
  type ModelFamily,
  type PromptEmbeds,
} from "../../pipeline/index.js";
import { schedulers, type Transition } from "../../schedulers/index.js";
import { setNumThreads, type Device, type Tensor } from "../../torch/index.js";
import { checkModelOptions } from "../config/model-options.js";
import type { Config } from "../config/schema.js";
import { locateDiffusionModel } from "../models.js";
import { needsOf } from "../objectives/index.js";
import { BatchSizes } from "./batch-sizes.js";
import { computeDtypeOf, openDevice } from "./device.js";
import { PassCounter } from "./pass-counter.js";
import { TextCache } from "./text-cache.js";
import { createTrainable, loadDenoiser, type Trainable } from "./trainable.js";

/** A LoRA file and its weight. */
export interface WeightedLora {
  readonly file: string;
  readonly weight: number;
}

/** The weights that a policy uses when nothing is trained. */
export interface InferenceWeights {
  /** Added to the base model. */
  readonly loras?: readonly WeightedLora[];
  /** Folder of a denoiser whose weights replace the model's own. */
  readonly denoiser?: string | undefined;
}

/** A model with its trained weights, see the top of this file. Owns its memory: call `dispose`. */
export class Policy {
  readonly model: DiffusionModel;
  /** The weights in training; undefined for inference. */
  readonly trainable: Trainable | undefined;
  /** Of one image, [C, h, w] for Stable Diffusion. */
  readonly latentShape: readonly number[];
  /** Passes through the denoiser so far, whatever they were for. */
  readonly passes = new PassCounter();
  /** How much passes through the model at once, where the device has too little memory for what the config says. */
  readonly batches = new BatchSizes();
  readonly #sample: Config["sample"];
  /** Frozen LoRAs, for inference. */
  readonly #adapters: readonly LoraAdapter[];
  readonly #texts: TextCache;
  readonly #encodesAhead: boolean;
  /** Passes of an image in a prediction with this conditioning. */
  readonly #passesOf = new WeakMap<Conditioning, number>();

  private constructor(
    { model, texts }: Opened,
    { sample, model: { height, width, offload } }: Pick<Config, "sample" | "model">,
    { trainable, adapters = [] }: { trainable?: Trainable; adapters?: readonly LoraAdapter[] },
  ) {
    this.model = model;
    this.trainable = trainable;
    this.latentShape = model.latentShape({ height: height ?? undefined, width: width ?? undefined });
    this.#sample = sample;
    this.#adapters = adapters;
    this.#texts = texts;
    this.#encodesAhead = offload;
  }

  /**
   * Loads a config's model and prepares its weights for training; predictions are still those of the base model.
   *
   * @throws InputError naming the file and the key, for folders and files that do not fit, missing devices, and image
   *   sizes that the model has no latents for; nothing stays in memory then
   */
  static forTraining(config: Config): Policy {
    return Policy.#toTrain(open(config), config);
  }

  /**
   * Like `forTraining`. With `model.offload` prompts that are to come are encoded first, as many as there is room for: then
   * text encoders and denoiser need not be in memory together, where the family can do without.
   *
   * @throws Interrupted when the signal aborts
   */
  static async openForTraining(config: Config, prompts: readonly string[], context: RunContext): Promise<Policy> {
    return Policy.#toTrain(await openAndEncode(config, prompts, context), config);
  }

  /** Loads a config's model for inference. @throws InputError as `forTraining` does */
  static forInference(config: Config, weights: InferenceWeights = {}): Policy {
    return Policy.#toInfer(open(config), config, weights);
  }

  /** Like `forInference`, with prompts that are encoded first, see `openForTraining`; after LoRAs, which may adapt encoders. */
  static async openForInference(
    config: Config,
    weights: InferenceWeights,
    prompts: readonly string[],
    context: RunContext,
  ): Promise<Policy> {
    const { loras = [] } = weights;
    const opened = loras.length === 0 ? await openAndEncode(config, prompts, context) : open(config);
    const policy = Policy.#toInfer(opened, config, weights);
    try {
      if (loras.length > 0) await encodeFirst(opened, config, prompts, context);
      return policy;
    } catch (error) {
      policy.dispose();
      throw error;
    }
  }

  static #toTrain(opened: Opened, config: Config): Policy {
    const { base: keepsBase } = needsOf(config.objective);
    return owned(opened, ({ model }) => {
      return new Policy(opened, config, { trainable: createTrainable(model, config, { keepsBase }) });
    });
  }

  static #toInfer(opened: Opened, config: Config, { loras = [], denoiser }: InferenceWeights): Policy {
    return owned(opened, ({ model }) => {
      if (denoiser !== undefined) loadDenoiser(model.denoiser, denoiser);
      const { adaptable, denoiserName: part } = model;
      const adapters = loras.flatMap(({ file, weight }) => loadLora(adaptable, file, { weight, part }));
      return new Policy(opened, config, { adapters });
    });
  }

  /** The weights in training, by name. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.trainable?.parameters ?? new Map<string, Tensor>();
  }

  /** Where the model computes. */
  get device(): Device {
    return this.model.device;
  }

  /** The timesteps of a trajectory in training, descending. */
  get timesteps(): number[] {
    return this.timestepsOf(this.#sample.steps);
  }

  /** The timesteps of a trajectory of `steps` steps, descending. */
  timestepsOf(steps: number): number[] {
    return this.model.scheduler.timesteps(steps);
  }

  /**
   * The text conditioning of a batch for a training step; the caller disposes of it.
   *
   * @param options `guided`: whether to apply the config's guidance scale
   */
  conditioning(prompts: readonly string[], { guided = true }: { guided?: boolean } = {}): Conditioning {
    return this.#conditioned(prompts, guided, (embeds, guidance) => this.model.condition(embeds, guidance));
  }

  /**
   * Like `conditioning`, with cross-attention keys and values precomputed for a whole trajectory. No gradient; invalid
   * after the next optimiser step.
   */
  samplingConditioning(prompts: readonly string[]): Conditioning {
    return this.#conditioned(prompts, true, (embeds, guidance) => this.model.prepare(embeds, guidance));
  }

  /**
   * With `model.offload`: encodes those of the prompts that are not known, together, so that the text encoders come once and
   * not with every batch. All of them are kept, in main memory.
   */
  async encodeAhead(prompts: readonly string[], context: RunContext): Promise<void> {
    if (this.#encodesAhead) await this.#texts.encodeAhead(withNegative(this.model, prompts, this.#sample), context);
  }

  /** The denoiser's prediction for a batch, see DiffusionModel.predict. */
  predict(x: Tensor, timesteps: number | readonly number[], conditioning: Conditioning): Tensor {
    this.passes.predicted(x.size(0) * (this.#passesOf.get(conditioning) ?? 1));
    return this.model.predict(x, timesteps, conditioning);
  }

  /**
   * One transition of a batch: x_{t-1} is drawn with `noise`, given as `prevSample`, or the mean of a step without
   * noise; with its log-prob.
   *
   * @param x float32 [B, ...latentShape]
   * @param timestep one for all rows, or one per row
   * @param numInferenceSteps of the trajectory; default: those of training
   */
  transition(
    x: Tensor,
    timestep: number | readonly number[],
    modelOutput: Tensor,
    draw: { noise: Tensor } | { prevSample: Tensor } | { deterministic: true },
    numInferenceSteps = this.#sample.steps,
  ): Transition {
    return this.model.scheduler.step({ modelOutput, timestep, sample: x, numInferenceSteps, ...draw });
  }

  /** Merges the LoRAs into the model's weights; this cannot be undone. */
  merge(): void {
    LoraAdapter.merge(this.#adapters);
  }

  /** Decodes final latents to images [B, 3, H, W] in 0..1, without gradient. */
  decode(latents: Tensor): Tensor {
    return this.model.decode(latents);
  }

  /** Frees all memory. */
  dispose(): void {
    this.trainable?.dispose();
    for (const adapter of this.#adapters) adapter.dispose();
    this.#texts.dispose();
    this.model.dispose();
  }

  #conditioned(
    prompts: readonly string[],
    guided: boolean,
    make: (
      embeds: PromptEmbeds,
      guidance: { guidanceScale: number; negative?: PromptEmbeds | undefined },
    ) => Conditioning,
  ): Conditioning {
    const { guidanceScale, negativePrompt } = this.#sample;
    const isGuided = guided && this.model.isGuided(guidanceScale);
    const embeds = this.#texts.embeds(prompts);
    const negative = isGuided ? this.#texts.embeds([negativePrompt]) : undefined;
    try {
      const conditioning = make(embeds, { guidanceScale: guided ? guidanceScale : 1, negative });
      this.#passesOf.set(conditioning, isGuided ? 2 : 1);
      return conditioning;
    } finally {
      embeds.dispose();
      negative?.dispose();
    }
  }
}

/** A config's model, and the texts that it has encoded. */
interface Opened {
  readonly model: DiffusionModel;
  readonly texts: TextCache;
}

/** Bytes of the texts of a whole run that are encoded before it: 1,500 prompts of Stable Diffusion 3.5 in bfloat16. */
const BYTES_AHEAD = 4 * 2 ** 30;

async function openAndEncode(config: Config, prompts: readonly string[], context: RunContext): Promise<Opened> {
  const opened = open(config);
  await owned(opened, () => encodeFirst(opened, config, prompts, context));
  return opened;
}

async function encodeFirst(
  { model, texts }: Opened,
  config: Config,
  prompts: readonly string[],
  context: RunContext,
): Promise<void> {
  if (!config.model.offload || prompts.length === 0) return;
  await texts.encodeAhead(withNegative(model, prompts, config.sample), context, { most: BYTES_AHEAD });
}

const withNegative = (
  model: DiffusionModel,
  prompts: readonly string[],
  { guidanceScale, negativePrompt }: Config["sample"],
): readonly string[] => (model.isGuided(guidanceScale) ? [negativePrompt, ...prompts] : prompts);

/** What is made of a model; if that fails, the model is disposed of. */
function owned<T>(opened: Opened, make: (opened: Opened) => T): T {
  const dispose = (error: unknown): never => {
    opened.texts.dispose();
    opened.model.dispose();
    throw error;
  };
  try {
    const made = make(opened);
    return made instanceof Promise ? (made.catch(dispose) as T) : made;
  } catch (error) {
    return dispose(error);
  }
}

/** Opens a config's model. */
function open(config: Config): Opened {
  const { path, dtype, variant, threads, tiling, offload, options, height, width } = config.model;
  const device = openDevice(config);
  if (threads !== null) setNumThreads(threads);
  const place = locateDiffusionModel(config.model);
  checkModelOptions(place.family, config);
  checkNoise(config, place.family);
  const model = openModel(
    place.folder,
    {
      dtype,
      device,
      tiling,
      offload,
      computeDtype: computeDtypeOf(config),
      ...(config.scheduler !== null && { scheduler: config.scheduler }),
      size: { height: height ?? undefined, width: width ?? undefined },
      gradientCheckpointing: config.train.gradientCheckpointing,
      ...(variant !== null && { variant }),
      ...(place.config !== undefined && { config: place.config }),
    },
    options,
  );
  return owned({ model, texts: new TextCache(model, { inMainMemory: offload }) }, (opened) => {
    checkSize(model, config);
    checkSteps(model, path, config);
    return opened;
  });
}

/** @throws InputError for steps without noise of a scheduler that always draws some */
function checkNoise(config: Config, family: ModelFamily): void {
  const { name } = config.scheduler ?? schedulerOf(family);
  if (schedulers.get(name).deterministicSteps === true) return;
  for (const section of ["sample", "eval"] as const) {
    const { noise } = config[section];
    if (noise === "everywhere") continue;
    throw new InputError(
      `Expected ${section}.noise "everywhere" for the scheduler ${name}, which has no steps without noise, but received "${noise}"`,
    );
  }
}

/** @throws InputError for a height or width that is not a multiple of the model's downscaling */
function checkSize({ downscale }: DiffusionModel, { model }: Config): void {
  for (const side of ["height", "width"] as const) {
    const pixels = model[side];
    if (pixels !== null && pixels % downscale !== 0) {
      throw new InputError(
        `Expected a multiple of ${downscale}, the downscaling of the model in ${model.path}, for model.${side} but received ${pixels}`,
      );
    }
  }
}

/** @throws InputError for more steps than the model has timesteps, and for those that its scheduler has none for */
function checkSteps({ scheduler }: DiffusionModel, path: string, config: Config): void {
  const { maxInferenceSteps } = scheduler;
  for (const section of ["sample", "eval"] as const) {
    const { steps } = config[section];
    if (steps === null) continue;
    if (steps > maxInferenceSteps) {
      throw new InputError(
        `Expected ${section}.steps of at most ${maxInferenceSteps}, the timesteps of the model in ${path}, but received ${steps}`,
      );
    }
    try {
      scheduler.timesteps(steps);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      throw new InputError(
        `Expected ${section}.steps that the scheduler of ${path} has timesteps for but received ${steps}: ${error.message}`,
        { cause: error },
      );
    }
  }
}
