/** The PyTorch side of bench/stage.ts: starts bench/stage_torch.py, gives it models and counts, and takes its seconds. */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { InputError, type Config, type Policy } from "../src/b2/index.js";
import { resolveModelFolder } from "../src/b2/model-folder.js";
import { CLIPModel } from "../src/models/index.js";
import type { Reward } from "../src/rewards/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { Generator, noGrad, numThreads, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";

export interface Seconds {
  readonly sample: number;
  readonly score: number;
  readonly train: number;
}

/** Images that the two sides are compared on before anything is timed. */
const COMPARED = 8;

export class TorchStage {
  private constructor(
    private readonly python: ChildProcessByStdio<Writable, Readable, null>,
    private readonly lines: AsyncIterator<string>,
    readonly folder: string,
  ) {}

  /** PyTorch's version, and how far its predictions and scores are from ours. */
  greeting!: { readonly version: string; readonly errors: { readonly prediction: number; readonly score: number } };

  /**
   * @param prompts whose text states and features the stages draw from
   * @throws InputError for settings that the other side does not have
   */
  static async start(
    python: string,
    { policy, reward, config, prompts, clock }: StartOptions & { readonly prompts: readonly string[] },
  ): Promise<TorchStage> {
    if (config.reward.name !== "clip-score" || policy.pipeline.isXL || config.sample.eta !== 1) {
      throw new InputError("Expected reward.name clip-score, sample.eta 1 and a model that is not SDXL for --python");
    }
    const folder = mkdtempSync(join(tmpdir(), "b2-bench-torch-"));
    const io = join(folder, "io.safetensors");
    const clip = resolveModelFolder(config.reward.model);
    await saveExamples(io, { policy, reward, config, prompts, clip });
    const script = fileURLToPath(new URL("../../bench/stage_torch.py", import.meta.url));
    // Our engine has set OpenMP's wait policy for itself; PyTorch gets the default, with which it is quickest alone.
    const env = { ...process.env };
    delete env["OMP_WAIT_POLICY"];
    delete env["GOMP_SPINCOUNT"];
    const child = spawn(python, [script], { stdio: ["pipe", "pipe", "inherit"], env });
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    const stage = new TorchStage(child, lines, folder);
    stage.greeting = (await stage.#ask({
      ...{ model: resolveModelFolder(config.model.path), clip, io, clock, threads: numThreads() },
      ...{ steps: config.sample.steps, timesteps: policy.timesteps(config.sample.steps), shape: policy.latentShape },
      ...{ roots: config.sample.rootsPerStage, branches: config.branch.count, batchSize: config.sample.batchSize },
      ...{ guidanceScale: config.sample.guidanceScale, rewardBatch: config.reward.batchSize },
      ...{ rank: config.lora.rank, lr: config.train.learningRate, microBatch: config.train.microBatch },
    })) as TorchStage["greeting"];
    return stage;
  }

  /** @param updates how many pairs each optimiser step has */
  async run(interval: number, updates: readonly number[]): Promise<Seconds> {
    return (await this.#ask({ interval, updates })) as Seconds;
  }

  stop(): void {
    this.python.stdin.end();
    rmSync(this.folder, { recursive: true });
  }

  async #ask(question: object): Promise<unknown> {
    this.python.stdin.write(`${JSON.stringify(question)}\n`);
    const line = await this.lines.next();
    if (line.done === true) throw new Error("Expected a python with torch and safetensors for --python but it ended");
    return JSON.parse(line.value) as unknown;
  }
}

export interface StartOptions {
  readonly policy: Policy;
  readonly reward: Reward;
  readonly config: Config;
  readonly clock: string;
}

/** What both sides share: text states and features of prompts, the noise schedule, and a few results of ours. */
async function saveExamples(
  file: string,
  { policy, reward, config, prompts, clip }: Omit<StartOptions, "clock"> & { prompts: readonly string[]; clip: string },
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
