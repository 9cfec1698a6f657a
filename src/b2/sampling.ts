/**
 * Branch-based sampling (BS, section 4.2 of the paper): one root a prompt is denoised up to the split; from there K
 * branches go on, each with its own noise.
 *
 * Departure from the reference: branches and prompts run as one batch, cut into chunks that fit the memory, and a
 * sample's noise comes from its address, so that it is the same however it was batched.
 */
import { chunks } from "../base/chunks.js";
import { yieldToEventLoop, empty, noGrad, type Tensor, tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import type { Policy } from "./policy.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { type Address, fillNormal } from "../base/philox.js";
import type { BranchBatch, SampleKey } from "./records.js";

/** Where a row's noise comes from; the step is the trajectory's. */
export type NoiseKey = Omit<Address, "step">;

/**
 * Samples all branches of a stage.
 *
 * @param prompts one a root
 * @param interval s: how many of the last steps are branched and recorded
 */
export async function sampleBranches(
  policy: Policy,
  { stage, prompts, interval }: { stage: number; prompts: readonly string[]; interval: number },
  config: Pick<Config, "seed" | "sample" | "branch">,
  { progress, signal }: RunContext,
): Promise<BranchBatch> {
  const { steps, batchSize } = config.sample;
  const branches = config.branch.count;
  const timesteps = policy.timesteps(steps);
  const split = steps - interval;
  const keys: SampleKey[] = prompts.flatMap((prompt, root) =>
    Array.from({ length: branches }, (_, branch) => ({ root, branch, prompt })),
  );
  const n = keys.length;
  const shape = policy.latentShape;
  const latents = empty([n, interval + 1, ...shape]);
  const logProbs = empty([n, interval]);
  const noiseKey = (root: number, branch: number): NoiseKey => ({
    seed: config.seed,
    purpose: "trajectory",
    stage,
    root,
    branch,
  });

  const task = progress.task("sampling", prompts.length * split + n * interval, "steps");
  try {
    // Roots: from x_T to the split. Their latents wait in the first place of the records of their branches.
    for (const [start, rows] of chunks(prompts.length, batchSize)) {
      const chunk = prompts.slice(start, start + rows);
      const noise = chunk.map((_, i) => noiseKey(start + i, 0));
      const x = await denoise(policy, gaussian(noise, 0, shape), chunk, noise, {
        ...{ timesteps, from: 0, to: split, signal },
        onStep: () => task.advance(rows),
      });
      tidy(() => {
        const place = latents.narrow(0, start * branches, rows * branches).select(1, 0);
        place.copy_(x.repeatInterleave(branches, 0));
      });
      x.dispose();
    }
    // Branches: from the split to the image.
    for (const [start, rows] of chunks(n, batchSize)) {
      const chunk = keys.slice(start, start + rows);
      const noise = chunk.map(({ root, branch }) => noiseKey(root, branch + 1));
      const first = tidy(() => latents.narrow(0, start, rows).select(1, 0).clone());
      const last = await denoise(
        policy,
        first,
        chunk.map(({ prompt }) => prompt),
        noise,
        {
          ...{ timesteps, from: split, to: steps, signal },
          onStep: (step, x, logProb) => {
            latents
              .narrow(0, start, rows)
              .select(1, step - split + 1)
              .copy_(x);
            logProbs
              .narrow(0, start, rows)
              .select(1, step - split)
              .copy_(logProb);
            task.advance(rows);
          },
        },
      );
      last.dispose();
    }
  } catch (error) {
    latents.dispose();
    logProbs.dispose();
    throw error;
  } finally {
    task.done();
  }
  return { stage, keys, timesteps: timesteps.slice(split), latents, logProbs };
}

interface DenoiseOptions {
  /** of the whole trajectory */
  readonly timesteps: readonly number[];
  readonly from: number;
  /** exclusive */
  readonly to: number;
  readonly signal?: AbortSignal | undefined;
  /** After step `step`: x_{t-1} and the transition's log-prob, both gone afterwards. */
  readonly onStep?: (step: number, x: Tensor, logProb: Tensor) => void;
}

/**
 * Denoises a batch over some of a trajectory's steps.
 *
 * @param x [B, C, h, w], disposed of
 * @param noise one key a row; transition `step` draws at address step + 1
 * @returns the latents after the last step, the caller's
 */
export async function denoise(
  policy: Policy,
  x: Tensor,
  prompts: readonly string[],
  noise: readonly NoiseKey[],
  { timesteps, from, to, signal, onStep }: DenoiseOptions,
): Promise<Tensor> {
  const shape = x.shape.slice(1);
  const condition = policy.samplingCondition(prompts);
  try {
    for (let step = from; step < to; step++) {
      checkInterrupted(signal);
      const next = tidy(() =>
        noGrad(() => {
          const { prevSample, logProb } = policy.transition(x, timesteps[step]!, condition, {
            noise: gaussian(noise, step + 1, shape),
          });
          onStep?.(step, prevSample, logProb);
          return prevSample;
        }),
      );
      x.dispose();
      x = next;
      await yieldToEventLoop();
    }
    return x;
  } catch (error) {
    x.dispose();
    throw error;
  } finally {
    condition.dispose();
  }
}

/** Standard normal noise, a row for each key: [B, ...shape] */
export function gaussian(keys: readonly NoiseKey[], step: number, shape: readonly number[]): Tensor {
  const size = shape.reduce((product, n) => product * n, 1);
  const values = new Float32Array(keys.length * size);
  keys.forEach((key, row) => fillNormal(values, row * size, size, { ...key, step }));
  return tensor(values, { shape: [keys.length, ...shape] });
}
