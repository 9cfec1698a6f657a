/**
 * The policy pi_theta(x_{t-1} | x_t, c): a Stable Diffusion pipeline whose UNet learns, through a LoRA or as a whole.
 *
 * Text is encoded once a prompt and run. Latents and log-probs are float32 whatever the model computes in.
 */
import { LoraAdapter, loadLora } from "../lora/index.js";
import {
  type GuidanceOptions,
  type PreparedPrompts,
  type PromptEmbeds,
  promptEmbeds,
  StableDiffusionPipeline,
} from "../pipeline/index.js";
import type { DDIMTransition } from "../schedulers/index.js";
import { cat, keep, setNumThreads, type Tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { computeDtypeOf, openDevice } from "./device.js";
import { InputError } from "../base/errors.js";
import { createLearner, type Learner, loadUNet } from "./learner.js";
import { configFolderOf, resolveModelFolder } from "./model-folder.js";

/** The text of a batch, a prompt a row, and its guidance; dispose() when the batch is done. */
export interface Condition {
  readonly prompts: PromptEmbeds | PreparedPrompts;
  readonly guidance: GuidanceOptions;
  dispose(): void;
}

export interface PolicyOptions {
  readonly steps: number;
  readonly eta: number;
  readonly guidanceScale: number;
  readonly negativePrompt: string;
  /** In pixels; null is the model's own size. */
  readonly height: number | null;
  readonly width: number | null;
}

/** A LoRA file and what it counts for. */
export interface WeightedLora {
  readonly file: string;
  readonly weight: number;
}

/** Which weights a policy begins with. */
export interface LoadOptions {
  /** "fresh": those that learn, which change nothing yet. A list: none that learn, and these on the base model. */
  readonly lora?: "fresh" | readonly WeightedLora[];
  /** A UNet's folder whose weights count instead of the model's own. */
  readonly unet?: string | undefined;
}

export class Policy {
  /** [C, h, w] */
  readonly latentShape: readonly number[];
  /** Every prompt met so far, a row each. */
  #texts: PromptEmbeds | undefined;
  readonly #rows = new Map<string, number>();

  /**
   * @param learner what learns; undefined where nothing does
   * @param adapters further LoRAs, which do not
   */
  constructor(
    readonly pipeline: StableDiffusionPipeline,
    readonly learner: Learner | undefined,
    private readonly options: PolicyOptions,
    private readonly adapters: readonly LoraAdapter[] = [],
  ) {
    const { height, width } = options;
    this.latentShape = pipeline.latentShape({
      ...(height === null ? {} : { height }),
      ...(width === null ? {} : { width }),
    });
  }

  /**
   * Loads the model of a config.
   *
   * @throws InputError and errors that name the file and the key, for folders and files that do not fit, for devices
   *   that are not there and sizes that the model has no latents for; nothing stays in memory then
   */
  static load(config: Config, { lora = "fresh", unet }: LoadOptions = {}): Policy {
    const { path, dtype, variant, height, width, threads, vaeTiling } = config.model;
    const device = openDevice(config);
    if (threads !== null) setNumThreads(threads);
    const configFolder = configFolderOf(path, config.model.config);
    const pipeline = StableDiffusionPipeline.fromPretrained(resolveModelFolder(path, config.model), {
      ...{ dtype, device, computeDtype: computeDtypeOf(config) },
      ...(variant !== null && { variant }),
      ...(configFolder !== undefined && { config: configFolder }),
    });
    try {
      checkSize(pipeline, config);
      if (vaeTiling) pipeline.vae.tiling = {};
      if (unet !== undefined) loadUNet(pipeline.unet, unet);
      const options = { ...config.sample, height, width };
      if (lora === "fresh") return new Policy(pipeline, createLearner(pipeline.unet, config), options);
      const models = { unet: pipeline.unet, text_encoder: pipeline.textEncoder, text_encoder_2: pipeline.textEncoder2 };
      const adapters = lora.flatMap(({ file, weight }) => loadLora(models, file, { weight }));
      return new Policy(pipeline, undefined, options, adapters);
    } catch (error) {
      pipeline.dispose();
      throw error;
    }
  }

  /** The weights that learn, by name. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.learner?.parameters ?? new Map<string, Tensor>();
  }

  timesteps(steps: number): number[] {
    return this.pipeline.scheduler.timesteps(steps);
  }

  /** The text states of these prompts, each encoded once a run. */
  condition(prompts: readonly string[]): Condition & { readonly prompts: PromptEmbeds } {
    const { guidanceScale, negativePrompt } = this.options;
    const guided = guidanceScale > 1;
    const texts = this.#encode(guided ? [...prompts, negativePrompt] : prompts);
    const embeds = texts.select(prompts.map((prompt) => this.#rows.get(prompt)!));
    const negative = guided ? texts.select([this.#rows.get(negativePrompt)!]) : undefined;
    return {
      prompts: embeds,
      guidance: negative === undefined ? {} : { guidanceScale, negative },
      dispose: () => {
        embeds.dispose();
        negative?.dispose();
      },
    };
  }

  /** The same for the steps of a sampler, without gradient: made once for all of them, void once the policy learns. */
  samplingCondition(prompts: readonly string[]): Condition {
    const plain = this.condition(prompts);
    try {
      const prepared = this.pipeline.prepare(plain.prompts, plain.guidance);
      return { prompts: prepared, guidance: {}, dispose: () => prepared.dispose() };
    } finally {
      plain.dispose();
    }
  }

  /**
   * One transition of a batch: drawn from `noise`, or given as `prevSample`.
   *
   * @param x float32 [B, C, h, w]
   * @param timestep of all rows, or one a row
   */
  transition(
    x: Tensor,
    timestep: number | readonly number[],
    { prompts, guidance }: Condition,
    drawn: { noise: Tensor } | { prevSample: Tensor },
  ): DDIMTransition {
    const { steps, eta } = this.options;
    const modelOutput = this.pipeline.predictNoise(x, timestep, prompts, guidance);
    return this.pipeline.scheduler.step({
      ...{ modelOutput, timestep, sample: x, numInferenceSteps: steps, eta },
      ...drawn,
    });
  }

  /** Makes the LoRAs a part of the model's weights, for good. */
  merge(): void {
    LoraAdapter.merge(this.adapters);
  }

  /** Images of final latents, [B, 3, H, W] in 0..1. */
  decode(latents: Tensor): Tensor {
    return this.pipeline.decode(latents);
  }

  /** Gives back all memory. */
  dispose(): void {
    this.learner?.dispose();
    for (const adapter of this.adapters) adapter.dispose();
    this.#texts?.dispose();
    this.pipeline.dispose();
  }

  /** All texts met so far, these prompts among them. */
  #encode(prompts: readonly string[]): PromptEmbeds {
    const fresh = [...new Set(prompts)].filter((prompt) => !this.#rows.has(prompt));
    const known = this.#texts;
    if (known !== undefined && fresh.length === 0) return known;
    const all = tidy(() => {
      // One at a time: a text's states must not depend, in the last bit, on which others are new with it, or a run
      // that is resumed would part from one that is not.
      const added = fresh.map((prompt) => this.pipeline.encodePrompts([prompt]));
      const parts = known === undefined ? added : [known, ...added];
      const pooled = parts.flatMap((part) => part.pooled ?? []);
      return promptEmbeds(
        keep(cat(parts.map((part) => part.hiddenStates))),
        pooled.length === 0 ? undefined : keep(cat(pooled)),
      );
    });
    known?.dispose();
    this.#texts = all;
    for (const prompt of fresh) this.#rows.set(prompt, this.#rows.size);
    return all;
  }
}

/** @throws InputError for sides that are no multiples of the VAE's downscaling */
function checkSize({ vae: { downscale } }: StableDiffusionPipeline, { model }: Config): void {
  for (const side of ["height", "width"] as const) {
    const pixels = model[side];
    if (pixels !== null && pixels % downscale !== 0) {
      throw new InputError(
        `Expected a multiple of ${downscale}, the downscaling of the VAE in ${model.path}, for model.${side} but received ${pixels}`,
      );
    }
  }
}
