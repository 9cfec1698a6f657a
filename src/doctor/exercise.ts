/** Everything that a training does with a model, once, on the model's device: the numbers that come out, and the time. */
import { LoraAdapter } from "../lora/index.js";
import { AdamW, clipGradNorm, GradScaler } from "../optim/index.js";
import type { StableDiffusionPipeline } from "../pipeline/index.js";
import { clipScore, type Clip } from "../rewards/index.js";
import { cat, Generator, inference, keep, randn, synchronize, Tensor, tidy } from "../torch/index.js";
import { peakMemory, resetPeakMemory } from "./peak-memory.js";

/** Numbers of any shape, on the CPU. */
export type Numbers = Float32Array | readonly number[];

export interface Exercised {
  /** The guided prediction of noise. */
  readonly prediction: Numbers;
  readonly images: Numbers;
  /** Of images and prompts; empty without a CLIP. */
  readonly reward: Numbers;
  /** Of a LoRA's first update, all layers in a row. */
  readonly gradient: Numbers;
  /** Policy in training to policy that sampled, before the first update: one for each image. */
  readonly ratios: Numbers;
  readonly seconds: { readonly step: number; readonly train: number; readonly decode: number };
  readonly peakBytes: number;
}

export interface ExerciseOptions {
  /** One image each. */
  readonly prompts: readonly string[];
  /** A side of the images. */
  readonly pixels: number;
  readonly clip?: Clip | undefined;
}

const STEPS = 20;
const GUIDANCE = 5;

/** The first round on an accelerator loads its kernels; on a CPU each takes seconds. */
const ROUNDS_ON_DEVICE = 4;

/** The inputs of a model, the same on every device and in every dtype, and what is done with them. Call `dispose`. */
class Work {
  readonly #model: StableDiffusionPipeline;
  readonly #owned: { dispose(): void }[] = [];
  readonly #timestep: number;
  readonly #latents: Tensor;
  readonly #noise: Tensor;
  readonly #texts;
  readonly #guidance;
  readonly #lora: LoraAdapter;
  readonly #optimizer: AdamW;
  readonly #scaler: GradScaler;
  readonly #prepared;
  /** The transition that trains, as it was sampled. */
  #sampled: { readonly prevSample: Tensor; readonly logProb: Tensor } | undefined;

  constructor(model: StableDiffusionPipeline, { prompts, pixels }: ExerciseOptions) {
    const generator = new Generator(0);
    const shape = [prompts.length, ...model.latentShape({ height: pixels, width: pixels })];
    const draw = (): Tensor => this.#own(tidy(() => randn(shape, { generator }).to({ device: model.device })));
    this.#model = model;
    this.#timestep = model.scheduler.timesteps(STEPS)[STEPS / 2]!;
    [this.#latents, this.#noise] = [draw(), draw()];
    this.#texts = this.#own(model.encodePrompts(prompts));
    this.#guidance = { guidanceScale: GUIDANCE, negative: this.#own(model.encodePrompts([""])) };
    // As in training, the adapter is there while the policy samples. It adds nothing yet.
    this.#lora = this.#own(LoraAdapter.inject(model.unet, { generator, targetModules: model.loraTargets }));
    this.#optimizer = this.#own(new AdamW(this.#lora.parameters, { lr: 1e-4 }));
    this.#scaler = new GradScaler({ enabled: model.computeDtype === "float16" });
    this.#prepared = this.#own(model.prepare(this.#texts, this.#guidance));
  }

  /** A denoising step as a sampler makes it. Returns the prediction. */
  step(): Numbers {
    return inference(() => {
      const modelOutput = this.#model.predict(this.#latents, this.#timestep, this.#prepared);
      const { prevSample, logProb } = this.#transition(modelOutput, { noise: this.#noise });
      this.#sampled ??= { prevSample: this.#own(keep(prevSample)), logProb: this.#own(keep(logProb)) };
      return numbersOf(modelOutput);
    });
  }

  /** A policy-gradient update on the transition that `step` sampled. */
  train(): { readonly ratios: Numbers; readonly gradient: Numbers } {
    const { prevSample, logProb: old } = this.#sampled!;
    const ratios = tidy(() => {
      const conditioning = this.#model.condition(this.#texts, this.#guidance);
      const modelOutput = this.#model.predict(this.#latents, this.#timestep, conditioning);
      const ratio = this.#transition(modelOutput, { prevSample }).logProb.sub(old).exp();
      ratio.mean().neg().mul(this.#scaler.scale).backward();
      return numbersOf(ratio);
    });
    const parameters = [...this.#lora.parameters.values()];
    this.#scaler.unscale_(parameters);
    const gradient = inference(() => numbersOf(cat(parameters.map(({ grad }) => grad!.flatten()))));
    clipGradNorm(parameters, 1);
    this.#optimizer.step();
    this.#optimizer.zeroGrad();
    return { ratios, gradient };
  }

  decode(): Tensor {
    return inference(() => this.#model.decode(this.#latents));
  }

  dispose(): void {
    for (const one of this.#owned.reverse()) one.dispose();
  }

  #transition(modelOutput: Tensor, draw: { noise: Tensor } | { prevSample: Tensor }) {
    const given = { timestep: this.#timestep, sample: this.#latents, numInferenceSteps: STEPS };
    return this.#model.scheduler.step({ ...given, modelOutput, ...draw });
  }

  #own<T extends { dispose(): void }>(one: T): T {
    this.#owned.push(one);
    return one;
  }
}

/** A prediction alone. */
export function predict(model: StableDiffusionPipeline, options: ExerciseOptions): Numbers {
  const work = new Work(model, options);
  try {
    return work.step();
  } finally {
    work.dispose();
  }
}

/** Everything, with the seconds of the fastest round and the most memory of any. */
export async function exercise(model: StableDiffusionPipeline, options: ExerciseOptions): Promise<Exercised> {
  const { device } = model;
  const timed = <T>(piece: () => T): { first: T; seconds: number } => {
    const [first, ...others] = Array.from({ length: device === "cpu" ? 1 : ROUNDS_ON_DEVICE }, () => {
      const start = performance.now();
      const result = piece();
      synchronize(device);
      return { result, seconds: (performance.now() - start) / 1000 };
    });
    for (const { result } of others) if (result instanceof Tensor) result.dispose();
    return { first: first!.result, seconds: Math.min(...[first!, ...others].map(({ seconds }) => seconds)) };
  };
  resetPeakMemory(device);
  const work = new Work(model, options);
  let images: Tensor | undefined;
  try {
    const [step, train, decode] = [timed(() => work.step()), timed(() => work.train()), timed(() => work.decode())];
    images = decode.first;
    const { clip, prompts } = options;
    return {
      prediction: step.first,
      ...train.first,
      images: numbersOf(images),
      reward: clip === undefined ? [] : Array.from(await clipScore(clip).score(images, [...prompts])),
      seconds: { step: step.seconds, train: train.seconds, decode: decode.seconds },
      peakBytes: peakMemory(device),
    };
  } finally {
    images?.dispose();
    work.dispose();
  }
}

const numbersOf = (tensor: Tensor): Numbers =>
  tidy(() => tensor.detach().to({ device: "cpu", dtype: "float32" }).toTypedArray()) as Float32Array;

/** The largest difference as a share of the largest number that was expected; NaN where either has one. */
export function largestError(received: Numbers, expected: Numbers): number {
  let [difference, scale] = [0, 0];
  expected.forEach((value, i) => {
    difference = Math.max(difference, Math.abs(received[i]! - value));
    scale = Math.max(scale, Math.abs(value));
  });
  return difference === 0 ? 0 : difference / scale;
}
