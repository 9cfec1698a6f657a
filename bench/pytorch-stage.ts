/** The PyTorch side of bench/stage.ts: starts bench/stage_torch.py, gives it models and counts, and takes its seconds. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { InputError, type Config, type Policy, type Seconds } from "../src/b2/index.js";
import { resolveModelFolder } from "../src/b2/model-folder.js";
import { CLIPModel } from "../src/models/index.js";
import type { Reward } from "../src/rewards/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { Generator, noGrad, numThreads, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { LineProcess, pytorchEnvironment } from "./line-process.js";
import type { Clock } from "./machine.js";

/** Images that the two sides are compared on before anything is timed. */
const COMPARED = 8;

/** PyTorch's version, and how far its predictions and scores are from ours. */
export interface Greeting {
  readonly version: string;
  readonly errors: { readonly prediction: number; readonly score: number };
}

export interface StartOptions {
  readonly policy: Policy;
  readonly reward: Reward;
  readonly config: Config;
  /** Their text states and features are what the stages draw from. */
  readonly prompts: readonly string[];
  readonly clock: Clock;
  /** For what the two sides share. */
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
   * @param python a python with torch and safetensors
   * @throws InputError for settings that the other side does not have
   */
  static async start(python: string, options: StartOptions): Promise<PyTorchStage> {
    const { policy, config, clock, folder } = options;
    if (config.reward.name !== "clip-score" || policy.pipeline.isXL || config.sample.eta !== 1) {
      throw new InputError("Expected reward.name clip-score, sample.eta 1 and a model that is not SDXL for --python");
    }
    const io = join(folder, "io.safetensors");
    const clip = resolveModelFolder(config.reward.model);
    await saveExamples(io, clip, options);
    const script = fileURLToPath(new URL("../../bench/stage_torch.py", import.meta.url));
    const process = new LineProcess(python, [script], { env: pytorchEnvironment() });
    const setup = {
      model: resolveModelFolder(config.model.path),
      clip,
      io,
      clock,
      threads: numThreads(),
      steps: config.sample.steps,
      timesteps: policy.timesteps(config.sample.steps),
      shape: policy.latentShape,
      roots: config.sample.rootsPerStage,
      branches: config.branch.count,
      batchSize: config.sample.batchSize,
      guidanceScale: config.sample.guidanceScale,
      rewardBatch: config.reward.batchSize,
      rank: config.lora.rank,
      lr: config.train.learningRate,
      microBatch: config.train.microBatch,
    };
    const greeting = (await process.answer(JSON.stringify(setup))) as Greeting;
    return new PyTorchStage(greeting, process);
  }

  /**
   * A stage with these counts.
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

/** What both sides share: text states and features of prompts, the noise schedule, and a few results of ours. */
async function saveExamples(
  file: string,
  clip: string,
  { policy, reward, config, prompts }: StartOptions,
): Promise<void> {
  const { pipeline } = policy;
  const steps = policy.timesteps(config.sample.steps);
  const own = prompts[0]!;
  const made = tidy(() =>
    noGrad(() => {
      const sample = randn([COMPARED, ...policy.latentShape], { generator: new Generator(0) });
      const { guidanceScale, negativePrompt } = config.sample;
      const negative = pipeline.encodePrompts([negativePrompt]);
      const model = CLIPModel.fromPretrained(clip);
      const features = model.getTextFeatures(CLIPTokenizer.fromPretrained(clip).encodeBatch(prompts));
      model.dispose();
      return {
        sample,
        text: pipeline.encodePrompts([...prompts, negativePrompt]).hiddenStates,
        features: features.div(features.norm({ dim: -1, keepdim: true })),
        alphas_cumprod: tensor(pipeline.scheduler.alphasCumprod),
        output: pipeline.predictNoise(sample, steps[0]!, pipeline.encodePrompts([own]), { guidanceScale, negative }),
        images: pipeline.decode(sample),
      };
    }),
  );
  const { images, ...tensors } = made;
  const scores = await reward(
    images,
    Array.from({ length: COMPARED }, () => own),
  );
  const everything: Record<string, Tensor> = { ...tensors, scores: tensor(Float32Array.from(scores)) };
  saveSafetensors(file, everything);
  for (const held of [images, ...Object.values(everything)]) held.dispose();
}
