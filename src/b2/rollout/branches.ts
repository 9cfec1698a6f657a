/**
 * Branch-based sampling (BS, section 4.2 of the paper): one root per prompt is denoised up to the split; from there K
 * branches continue, each with its own noise.
 *
 * Departure from the reference: branches and prompts run as one batch, cut into chunks that fit into memory, and a
 * sample's noise is derived from its (seed, stage, root, branch, step), so it does not depend on batching.
 */
import { chunks } from "../../base/chunks.js";
import type { RunContext } from "../../base/progress.js";
import { empty, tidy, type Device, type Tensor } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import type { LearnsFrom } from "../objectives/index.js";
import type { Policy } from "../policy/policy.js";
import type { BranchBatch, SampleKey } from "../records.js";
import { denoise, gaussian, type NoiseKey } from "./denoise.js";

/** What to sample for a stage. */
export interface Rollout {
  readonly stage: number;
  /** One per root. */
  readonly prompts: readonly string[];
  /** s: how many of the last steps are branched. */
  readonly interval: number;
  /** How many of these steps, at their end, do not train. Default 0. With `sample.noise` "interval" they draw no noise. */
  readonly skipLast?: number;
  /** Whether to keep all steps of the branches, or only their final latents. Default: transitions. */
  readonly data?: LearnsFrom;
}

/**
 * Samples all branches of a stage.
 *
 * @returns a record whose tensors the caller disposes of
 * @throws Interrupted when `signal` aborts
 */
export async function sampleBranches(
  policy: Policy,
  { stage, prompts, interval, skipLast = 0, data = "transitions" }: Rollout,
  config: Pick<Config, "seed" | "sample" | "branch">,
  { progress, signal }: RunContext,
): Promise<BranchBatch> {
  const { steps, batchSize, noise } = config.sample;
  const branches = config.branch.count;
  const { timesteps, device, latentShape: shape } = policy;
  const split = steps - interval;
  const keys: SampleKey[] = prompts.flatMap((prompt, root) =>
    Array.from({ length: branches }, (_, branch) => ({ root, branch, prompt })),
  );
  const n = keys.length;
  const record = new Recorder(n, interval, shape, data === "transitions");
  const noiseKey = (root: number, branch: number): NoiseKey => {
    return { seed: config.seed, stream: "trajectory", stage, root, branch };
  };

  const trained = { from: split, to: steps - skipLast };
  const isNoisy = (step: number): boolean => noise === "everywhere" || (step >= trained.from && step < trained.to);

  const task = progress.task("sampling", prompts.length * split + n * interval, "steps");
  try {
    // Roots: from x_T to the split. Their latents are kept in state 0 of their branches' records.
    for (const [start, rows] of chunks(prompts.length, batchSize)) {
      const chunk = prompts.slice(start, start + rows);
      const addresses = chunk.map((_, i) => noiseKey(start + i, 0));
      const x = await denoise(policy, gaussian(addresses, 0, shape, device), chunk, addresses, {
        timesteps,
        from: 0,
        to: split,
        isNoisy,
        signal,
        onStep: () => task.advance(rows),
      });
      tidy(() => void record.place(start * branches, rows * branches, 0).copy_(x.repeatInterleave(branches, 0)));
      x.dispose();
    }
    // Branches: from the split to the image.
    for (const [start, rows] of chunks(n, batchSize)) {
      const chunk = keys.slice(start, start + rows);
      const addresses = chunk.map(({ root, branch }) => noiseKey(root, branch + 1));
      const first = tidy(() => record.place(start, rows, 0).clone().to({ device }));
      const held = record.chunk(start, rows, device);
      try {
        const last = await denoise(
          policy,
          first,
          chunk.map(({ prompt }) => prompt),
          addresses,
          {
            timesteps,
            from: split,
            to: steps,
            isNoisy,
            signal,
            onStep: (step, x, logProb) => {
              held.keep(step - split, x, logProb);
              task.advance(rows);
            },
          },
        );
        last.dispose();
        held.finish();
      } finally {
        held.dispose();
      }
    }
  } catch (error) {
    record.dispose();
    throw error;
  } finally {
    task.done();
  }
  return { stage, keys, timesteps: timesteps.slice(split), latents: record.latents, logProbs: record.logProbs };
}

/** Records the trajectories of a stage, on the CPU. */
class Recorder {
  /** [n, k, ...latent], see BranchBatch. */
  readonly latents: Tensor;
  /** [n, s] */
  readonly logProbs: Tensor | undefined;

  constructor(n: number, interval: number, shape: readonly number[], transitions: boolean) {
    this.latents = empty([n, transitions ? interval + 1 : 1, ...shape]);
    this.logProbs = transitions ? empty([n, interval]) : undefined;
  }

  /** A view of some rows' latents at one recorded state, [rows, ...latent]. */
  place(start: number, rows: number, state: number): Tensor {
    return this.latents.narrow(0, start, rows).select(1, state);
  }

  chunk(start: number, rows: number, device: Device): ChunkRecord {
    return new ChunkRecord(this.latents.narrow(0, start, rows), this.logProbs?.narrow(0, start, rows), device);
  }

  dispose(): void {
    this.latents.dispose();
    this.logProbs?.dispose();
  }
}

/**
 * Records the steps of some rows. On a GPU they are collected there and copied to the CPU once per chunk: a copy per
 * step would make the GPU wait for the CPU each time.
 */
class ChunkRecord {
  /** Views of the record, and where steps are collected; on the CPU the two are the same. */
  readonly #latents: Tensor;
  readonly #logProbs: Tensor | undefined;
  readonly #heldLatents: Tensor;
  readonly #heldLogProbs: Tensor | undefined;

  constructor(latents: Tensor, logProbs: Tensor | undefined, device: Device) {
    const held = (x: Tensor): Tensor => (device === "cpu" ? x : tidy(() => x.to({ device })));
    this.#latents = latents;
    this.#logProbs = logProbs;
    this.#heldLatents = held(latents);
    this.#heldLogProbs = logProbs && held(logProbs);
  }

  /** Without transitions each step overwrites the one before, which leaves the final latents. */
  keep(step: number, x: Tensor, logProb: Tensor): void {
    this.#heldLatents.select(1, this.#heldLogProbs === undefined ? 0 : step + 1).copy_(x);
    this.#heldLogProbs?.select(1, step).copy_(logProb);
  }

  finish(): void {
    if (this.#heldLatents === this.#latents) return;
    this.#latents.copy_(this.#heldLatents);
    if (this.#heldLogProbs !== undefined) this.#logProbs?.copy_(this.#heldLogProbs);
  }

  dispose(): void {
    for (const tensor of [this.#latents, this.#logProbs, this.#heldLatents, this.#heldLogProbs]) tensor?.dispose();
  }
}
