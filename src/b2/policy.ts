/**
 * The policy pi_theta(x_{t-1} | x_t, c): a Stable Diffusion pipeline whose UNet carries the LoRA weights that learn.
 *
 * Text is encoded once a prompt and run. Latents and log-probs are float32 whatever the model computes in.
 */
import { LoraAdapter } from "../lora/index.js";
import { type PromptEmbeds, StableDiffusionPipeline } from "../pipeline/index.js";
import type { DDIMTransition } from "../schedulers/index.js";
import { type Device, Generator, noGrad, setNumThreads, type Tensor, tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { resolveModelFolder } from "./model-folder.js";

/** Text states of a batch, an embedding a row; dispose() when the batch is done. */
export interface Condition {
  readonly embeds: PromptEmbeds;
  readonly negative?: PromptEmbeds;
  dispose(): void;
}

export class Policy {
  /** [C, h, w] */
  readonly latentShape: readonly number[];
  readonly #cache = new Map<string, PromptEmbeds>();

  constructor(
    readonly pipeline: StableDiffusionPipeline,
    readonly adapter: LoraAdapter,
    private readonly options: {
      readonly steps: number;
      readonly eta: number;
      readonly guidanceScale: number;
      readonly negativePrompt: string;
      readonly device: Device;
      readonly height?: number;
      readonly width?: number;
    },
  ) {
    const { height, width } = options;
    this.latentShape = pipeline.latentShape({
      ...(height === undefined ? {} : { height }),
      ...(width === undefined ? {} : { width }),
    });
  }

  /** Loads the model of a config and gives its UNet a fresh adapter, which at first changes nothing. */
  static load(config: Config): Policy {
    const { path, dtype, device, height, width, threads } = config.model;
    if (threads !== null) setNumThreads(threads);
    const pipeline = StableDiffusionPipeline.fromPretrained(resolveModelFolder(path), { dtype, device: device as Device });
    const { rank, alpha, targetModules } = config.lora;
    const generator = new Generator(config.seed);
    const adapter = LoraAdapter.inject(pipeline.unet, { rank, alpha: alpha ?? rank, targetModules, generator });
    return new Policy(pipeline, adapter, {
      ...config.sample,
      device: device as Device,
      ...(height === null ? {} : { height }),
      ...(width === null ? {} : { width }),
    });
  }

  /** The weights that learn, by name. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.adapter.parameters;
  }

  timesteps(steps: number): number[] {
    return this.pipeline.scheduler.timesteps(steps);
  }

  /** The text states of these prompts, each encoded once. */
  condition(prompts: readonly string[]): Condition {
    const { guidanceScale, negativePrompt } = this.options;
    const guided = guidanceScale > 1;
    this.#encode(guided ? [...prompts, negativePrompt] : prompts);
    const embeds = this.#rows(prompts);
    const negative = guided ? this.#rows(Array<string>(prompts.length).fill(negativePrompt)) : undefined;
    return {
      embeds,
      ...(negative === undefined ? {} : { negative }),
      dispose: () => {
        disposeEmbeds(embeds);
        if (negative !== undefined) disposeEmbeds(negative);
      },
    };
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
    { embeds, negative }: Condition,
    drawn: { noise: Tensor } | { prevSample: Tensor },
  ): DDIMTransition {
    const { steps, eta, guidanceScale } = this.options;
    const modelOutput = this.pipeline.predictNoise(x, timestep, embeds, {
      guidanceScale,
      ...(negative === undefined ? {} : { negative }),
    });
    return this.pipeline.scheduler.step({
      ...{ modelOutput, timestep, sample: x, numInferenceSteps: steps, eta },
      ...drawn,
    });
  }

  /** Images of final latents, [B, 3, H, W] in 0..1. */
  decode(latents: Tensor): Tensor {
    return this.pipeline.decode(latents);
  }

  #encode(prompts: readonly string[]): void {}

  #rows(prompts: readonly string[]): PromptEmbeds {
    throw new Error("later");
  }
}

function disposeEmbeds(embeds: PromptEmbeds): void {
  embeds.hiddenStates.dispose();
  embeds.pooled?.dispose();
}
