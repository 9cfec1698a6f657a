/**
 * One side of bench/full-size.ts, in a process of its own so that its memory can be measured: loads a model, then does
 * one piece of work for each line on standard input and answers with a line of JSON.
 *
 *     node dist/bench/full-size-side.js <model folder> <dtype> <pixels a side> <file for the example> [checkpointing]
 */
import { createInterface } from "node:readline";
import { LoraAdapter } from "../src/lora/index.js";
import { AdamW, clipGradNorm } from "../src/optim/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import {
  Generator,
  inference,
  randn,
  tensor,
  tidy,
  torchVersion,
  type DType,
  type Tensor,
} from "../src/torch/index.js";
import { countFlops } from "./flops.js";
import { matmulPeak, peakMemory, resetPeakMemory } from "./machine.js";

const [folder, dtype, pixels, example, flag] = process.argv.slice(2) as [string, DType, string, string, string?];

/** Runs `work` and measures its seconds and peak memory, weights included. */
function measured(work: () => unknown): { seconds: number; peak: number } {
  resetPeakMemory();
  const start = performance.now();
  work();
  return { seconds: (performance.now() - start) / 1000, peak: peakMemory() };
}

const before = peakMemory();
let pipeline!: StableDiffusionPipeline;
const load = measured(() => (pipeline = StableDiffusionPipeline.fromPretrained(folder, { dtype })));
const parts = [
  pipeline.unet,
  pipeline.vae,
  pipeline.textEncoder,
  ...(pipeline.textEncoder2 ? [pipeline.textEncoder2] : []),
];
const weights = parts.flatMap((part) => [...part.parameters().values()]);
const weightBytes = weights.reduce((sum, { numel }) => sum + numel * (dtype === "float32" ? 4 : 2), 0);

const { computeDtype } = pipeline;
pipeline.unet.gradientCheckpointing = flag === "checkpointing";

const generator = new Generator(0);
const size = { height: Number(pixels), width: Number(pixels) };
const latents = randn([1, ...pipeline.latentShape(size)], { generator });
const prompts = pipeline.encodePrompts(["a cat riding a bike", ""]);
const [positive, negative] = [prompts.select([0]), prompts.select([1])];
const guidance = { guidanceScale: 5, negative };
const steps = 20;
const timestep = pipeline.scheduler.timesteps(steps)[steps / 2]!;
const noise = randn(latents.shape, { generator });

/** A guided prediction, with the text encoded beforehand. */
const predicted = (): Tensor =>
  inference(() => pipeline.predict(latents, timestep, pipeline.condition(positive, guidance)));

/** One guided transition of a sampler, with the keys and values of the text computed beforehand. */
function step(): void {
  tidy(() =>
    inference(() => {
      const modelOutput = pipeline.predict(latents, timestep, prepared);
      return pipeline.scheduler.step({ modelOutput, timestep, sample: latents, numInferenceSteps: steps, noise });
    }),
  );
}

/** One clipped policy-gradient update of a LoRA on a single transition: forward, backward, AdamW. */
function trainStep({ lora, optimizer }: Trained): void {
  tidy(() => {
    const modelOutput = pipeline.predict(latents, timestep, pipeline.condition(positive, guidance));
    const given = { sample: latents, numInferenceSteps: steps, prevSample: noise };
    const { logProb } = pipeline.scheduler.step({ modelOutput, timestep, ...given });
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
  const lora = LoraAdapter.inject(pipeline.unet, { rank: 4, generator });
  return { lora, optimizer: new AdamW(lora.parameters, { lr: 1e-4 }) };
}

const prepared = pipeline.prepare(positive, guidance);
let trained: Trained | undefined;

const work: Record<string, () => void> = {
  forward: () => tidy(() => void predicted()),
  step,
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
    timestep: tensor([timestep], { dtype: "int64" }),
    ...(own.pooled && { pooled: own.pooled, negativePooled: other.pooled! }),
  });
});
answer({
  version: torchVersion(),
  load,
  before,
  weightBytes,
  timestep,
  flops: countFlops(work["forward"]!),
  parameters: pipeline.unet.parameterCount(),
  computeDtype,
});

for await (const line of createInterface({ input: process.stdin })) {
  if (line !== "train") {
    trained?.lora.dispose();
    trained = undefined;
  }
  const matmulBefore = matmulPeak({ dtype: computeDtype });
  const result = measured(work[line]!);
  answer({ ...result, matmul: Math.max(matmulBefore, matmulPeak({ dtype: computeDtype })) });
}
