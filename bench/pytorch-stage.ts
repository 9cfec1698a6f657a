/**
 * The PyTorch side of bench/stage.ts: starts bench/stage_torch.py, passes it models and counts, and reads its seconds.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Config, Policy } from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { resolveModel } from "../src/hub/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { Clip, type RewardSet } from "../src/rewards/index.js";
import type { PhaseSeconds } from "../src/runs/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { DDIMScheduler } from "../src/schedulers/index.js";
import { Generator, inference, numThreads, randn, tensor, type Tensor } from "../src/torch/index.js";
import { LineProcess, pytorchEnvironment } from "./line-process.js";
import type { Clock } from "./machine.js";

/** Images that the two sides are compared on before anything is timed. */
const COMPARED = 8;

/** Seconds of a stage's phases, by the clock of the benchmark. */
export type Seconds = Omit<PhaseSeconds, "rewards">;

/** PyTorch's version, and how far its predictions and scores are from ours. */
export interface Greeting {
  readonly version: string;
  readonly errors: { readonly prediction: number; readonly score: number };
}

export interface StartOptions {
  readonly policy: Policy;
  readonly rewards: RewardSet;
  readonly config: Config;
  /** Prompts of the stages; their text states and features are shared with PyTorch. */
  readonly prompts: readonly string[];
  readonly clock: Clock;
  /** Folder for the files that both sides share. */
  readonly folder: string;
}

export class PyTorchStage {
  readonly greeting: Greeting;
  readonly #process: LineProcess;

  private constructor(greeting: Greeting, process: LineProcess) {
    this.greeting = greeting;
    this.#process = process;
  }

  /**
   * @param python a Python with torch and safetensors
   * @throws InputError for settings that the other side does not support
   */
  static async start(python: string, options: StartOptions): Promise<PyTorchStage> {
    const { policy, config, clock, folder } = options;
    const sides = comparable(options);
    const io = join(folder, "io.safetensors");
    await saveExamples(io, sides, options);
    const script = fileURLToPath(new URL("../../bench/stage_torch.py", import.meta.url));
    const process = new LineProcess(python, [script], { env: pytorchEnvironment() });
    const setup = {
      model: resolveModel(config.model.path, config.model),
      clip: sides.clip,
      io,
      clock,
      threads: numThreads(),
      steps: config.sample.steps,
      timesteps: policy.timesteps,
      shape: policy.latentShape,
      roots: config.sample.rootsPerStage,
      branches: config.branch.count,
      batchSize: config.sample.batchSize,
      guidanceScale: config.sample.guidanceScale,
      rewardBatch: config.sample.decodeBatchSize,
      rank: config.lora.rank,
      lr: config.train.learningRate,
      microBatch: config.train.microBatch,
    };
    const greeting = (await process.answer(JSON.stringify(setup))) as Greeting;
    return new PyTorchStage(greeting, process);
  }

  /**
   * Runs a stage with these counts.
   *
   * @param interval steps that are trained
   * @param updates how many pairs each optimiser step has
   */
  async run(interval: number, updates: readonly number[]): Promise<Seconds> {
    return (await this.#process.answer(JSON.stringify({ interval, updates }))) as Seconds;
  }

  stop(): void {
    this.#process.end();
  }
}

/** Settings that the other side supports. */
interface Comparable {
  readonly pipeline: StableDiffusionPipeline;
  readonly scheduler: DDIMScheduler;
  /** CLIP's folder. */
  readonly clip: string;
}

/** @throws InputError for settings that the other side does not support */
function comparable({ policy: { model }, config }: StartOptions): Comparable {
  const { scheduler } = model;
  const [reward, ...others] = config.rewards;
  if (!(model instanceof StableDiffusionPipeline) || model.isXL) {
    throw new InputError(`Expected Stable Diffusion 1 or 2 for --python but received ${config.model.path}`);
  }
  if (!(scheduler instanceof DDIMScheduler) || scheduler.eta !== 1) {
    const received = JSON.stringify(config.scheduler);
    throw new InputError(`Expected the scheduler ddim with eta 1 for --python but received ${received}`);
  }
  if (reward?.name !== "clip-score" || reward.weight !== 1 || others.length > 0) {
    const received = JSON.stringify(config.rewards);
    throw new InputError(`Expected clip-score alone for rewards with --python but received ${received}`);
  }
  return { pipeline: model, scheduler, clip: resolveModel(String(reward["model"])) };
}

/** Data that both sides share: text states and features of prompts, the noise schedule, and a few of our results. */
async function saveExamples(
  file: string,
  { pipeline, scheduler, clip }: Comparable,
  { policy, rewards, config, prompts }: StartOptions,
): Promise<void> {
  const { guidanceScale, negativePrompt } = config.sample;
  const own = prompts[0]!;
  const judge = Clip.fromPretrained(clip);
  const { images, ...tensors } = inference(() => {
    const sample = randn([COMPARED, ...policy.latentShape], { generator: new Generator(0) });
    const negative = pipeline.encodePrompts([negativePrompt]);
    const text = pipeline.condition(pipeline.encodePrompts([own]), { guidanceScale, negative }, COMPARED);
    return {
      sample,
      text: pipeline.encodePrompts([...prompts, negativePrompt]).states.hiddenStates,
      features: judge.textFeatures(prompts),
      alphas_cumprod: tensor(scheduler.alphasCumprod),
      output: pipeline.predict(sample, policy.timesteps[0]!, text),
      images: pipeline.decode(sample),
    };
  });
  judge.dispose();
  const { total } = await rewards.score(images, Array<string>(COMPARED).fill(own));
  const everything: Record<string, Tensor> = { ...tensors, scores: tensor(Float32Array.from(total)) };
  saveSafetensors(file, everything);
  for (const held of [images, ...Object.values(everything)]) held.dispose();
}
