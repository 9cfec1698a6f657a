/**
 * One side of bench/full-size.ts, in a process of its own so that its memory can be measured: loads a model, then does
 * one piece of work for each line on standard input and answers with a line of JSON.
 *
 *     node dist/bench/full-size-side.js '<settings as JSON, see SideSettings>'
 */
import { createInterface } from "node:readline";
import { peakMemory, resetPeakMemory } from "../src/doctor/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { AdamW, clipGradNorm } from "../src/optim/index.js";
import { openModel, type DiffusionModel, type TextEmbeds } from "../src/pipeline/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import {
  Generator,
  inference,
  noGrad,
  randn,
  synchronize,
  tensor,
  tidy,
  torchVersion,
  type Device,
  type DType,
  type Tensor,
} from "../src/torch/index.js";
import { countFlops } from "./flops.js";
import { matmulPeak } from "./machine.js";

/** What a side is told; bench/full_size_torch.py reads the same. */
export interface SideSettings {
  /** The model's folder. */
  readonly folder: string;
  /** Where the example goes: inputs, and this side's output for them. */
  readonly example: string;
  readonly dtype: DType;
  readonly device: Device;
  /** A side of the image. */
  readonly pixels: number;
  /** Images at a time. */
  readonly images: number;
  readonly checkpointing: boolean;
  /** Loads text encoders for the prompts alone, and the denoiser after them, where the family can. */
  readonly offload: boolean;
}

const { folder, example, dtype, device, pixels, images, checkpointing, offload } = JSON.parse(
  process.argv[2]!,
) as SideSettings;

/** Runs `work` and measures its seconds and peak memory, weights included. */
function measured(work: () => unknown): { seconds: number; peak: number } {
  resetPeakMemory(device);
  const start = performance.now();
  work();
  synchronize(device);
  return { seconds: (performance.now() - start) / 1000, peak: peakMemory(device) };
}

const before = peakMemory(device);
let pipeline!: DiffusionModel;
const load = measured(
  () => (pipeline = openModel(folder, { dtype, device, offload, gradientCheckpointing: checkpointing })),
);
let prompts!: TextEmbeds;
const text = measured(() => (prompts = pipeline.encodePrompts(["a cat riding a bike", ""]) as TextEmbeds));
const ofDenoiser = measured(() => pipeline.denoiser);
const weights = Object.values(pipeline.modules).flatMap((part) => [...(part?.parameters().values() ?? [])]);
const weightBytes = weights.reduce((sum, { numel }) => sum + numel * (dtype === "float32" ? 4 : 2), 0);

const { computeDtype, denoiser, loraTargets } = pipeline;

const generator = new Generator(0);
const size = { height: pixels, width: pixels };
const latents = randn([images, ...pipeline.latentShape(size)], { generator }).to({ device });
const rows = (prompt: number) => prompts.select(Array<number>(images).fill(prompt));
const [positive, negative] = [rows(0), rows(1)];
const guidance = { guidanceScale: 5, negative };
const steps = 20;
const timestep = pipeline.scheduler.timesteps(steps)[steps / 2]!;
const noise = randn(latents.shape, { generator }).to({ device });

/** A guided prediction, with the text encoded beforehand. */
const predicted = (): Tensor =>
  inference(() => pipeline.predict(latents, timestep, pipeline.condition(positive, guidance)));

/** One guided transition of a sampler, with the keys and values of the text computed beforehand. */
const step = () =>
  inference(() => {
    const modelOutput = pipeline.predict(latents, timestep, prepared);
    return pipeline.scheduler.step({ modelOutput, timestep, sample: latents, numInferenceSteps: steps, noise });
  });

/** The log-prob of a transition, as training computes it. */
function logProbOf(prevSample: Tensor): Tensor {
  const modelOutput = pipeline.predict(latents, timestep, pipeline.condition(positive, guidance));
  const given = { sample: latents, numInferenceSteps: steps, prevSample };
  return pipeline.scheduler.step({ modelOutput, timestep, ...given }).logProb;
}

/** How far the ratio of policies is from 1 before any update, with a LoRA that adds nothing yet: 0 where rounding agrees. */
function firstRatioError(): number {
  const { lora, optimizer } = training();
  try {
    return tidy(() => {
      const { prevSample, logProb } = step();
      const ratio = noGrad(() => logProbOf(prevSample).sub(logProb).exp());
      return ratio.sub(1).abs().amax().item();
    });
  } finally {
    optimizer.dispose();
    lora.dispose();
  }
}

/** One policy-gradient update of a LoRA on a transition of each image: forward, backward, AdamW. */
function trainStep({ lora, optimizer }: Trained): void {
  tidy(() => {
    const logProb = logProbOf(noise);
    logProb.sub(logProb.detach()).exp().neg().mean().backward();
  });
  clipGradNorm(lora.parameters.values(), 1);
  optimizer.step();
  optimizer.zeroGrad();
}

interface Trained {
  readonly lora: LoraAdapter;
  readonly optimizer: AdamW;
}

function training(): Trained {
  const lora = LoraAdapter.inject(denoiser, { rank: 4, targetModules: loraTargets, generator });
  return { lora, optimizer: new AdamW(lora.parameters, { lr: 1e-4 }) };
}

const prepared = pipeline.prepare(positive, guidance);
let trained: Trained | undefined;

const work: Record<string, () => void> = {
  forward: () => tidy(() => void predicted()),
  step: () => tidy(() => void step()),
  train: () => trainStep((trained ??= training())),
  decode: () => tidy(() => void inference(() => pipeline.decode(latents))),
};

const answer = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`);

tidy(() => {
  const [own, other] = [positive.states, negative.states];
  saveSafetensors(example, {
    latents,
    output: predicted(),
    text: own.hiddenStates,
    negative: other.hiddenStates,
    timestep: tensor([timestep]),
    ...(own.pooled && { pooled: own.pooled, negativePooled: other.pooled! }),
  });
});
const firstRatio = firstRatioError();
answer({
  version: torchVersion(),
  load,
  text,
  ofDenoiser,
  before,
  weightBytes,
  firstRatio,
  flops: countFlops(work["forward"]!),
  parameters: denoiser.parameterCount(),
  computeDtype,
});

for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "train") {
    trained?.lora.dispose();
    trained = undefined;
  }
  const peak = (): number => matmulPeak({ dtype: computeDtype, device, n: device === "cpu" ? 2048 : 8192 });
  const matmulBefore = peak();
  const result = measured(work[line]!);
  answer({ ...result, matmul: Math.max(matmulBefore, peak()) });
}
