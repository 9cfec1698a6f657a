/**
 * Branch-based sampling (BS, section 4.2 of the paper): one root per prompt is denoised up to the split; from there K
 * branches continue, each with its own noise. In a tree they split again on the way (tree.ts).
 *
 * Departure from the reference: branches and prompts run as one batch, cut into chunks that fit into memory, and a
 * sample's noise is derived from its (seed, stage, root, branch, step), so it does not depend on batching. Several workers
 * share the chunks, which are those of one process: so its bits are theirs.
 */
import type { ProgressTask } from "../../base/progress.js";
import { alone, batchShareOf, exchangeRows, type Share, type WithWorkers } from "../../distributed/index.js";
import { empty, tidy, type Device, type Tensor } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import type { LearnsFrom } from "../objectives/index.js";
import type { BatchedWork } from "../policy/batch-sizes.js";
import type { Policy } from "../policy/policy.js";
import type { BranchBatch, SampleKey } from "../records.js";
import { denoise, gaussian, type NoiseKey } from "./denoise.js";
import { imagesOf, levelsOf } from "./tree.js";

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
  { progress, signal, workers = alone }: WithWorkers,
): Promise<BranchBatch> {
  const { steps, batchSize, noise } = config.sample;
  const { timesteps, device, latentShape: shape } = policy;
  const split = steps - interval;
  const levels = levelsOf(config.branch, interval);
  const images = imagesOf(config.branch);
  const keys: SampleKey[] = prompts.flatMap((prompt, root) =>
    Array.from({ length: images }, (_, branch) => ({ root, branch, prompt })),
  );
  const record = new Recorder(keys.length, interval, shape, data === "transitions");
  const noiseKey = (root: number, branch: number): NoiseKey => {
    return { seed: config.seed, stream: "trajectory", stage, root, branch };
  };
  const trained = { from: split, to: steps - skipLast };
  const isNoisy = (step: number): boolean => noise === "everywhere" || (step >= trained.from && step < trained.to);

  const rowsOf = (total: number, rank: number): Share => batchShareOf(total, batchSize, { rank, size: workers.size });
  /** This worker's part of so many rows. */
  const own = (total: number): BatchedWork => {
    const { start: first, length } = rowsOf(total, workers.rank);
    return { key: "sample.batchSize", first, total: length, size: batchSize, progress };
  };
  const exchange = (total: number, images: number, tensors: readonly Tensor[]): Promise<void> =>
    exchangeRows(tensors, workers, (rank) => {
      const { start, length } = rowsOf(total, rank);
      return { start: start * images, length: length * images };
    });

  const ownSteps = levels.reduce(
    (sum, { from, to, edges }) => sum + rowsOf(prompts.length * edges, workers.rank).length * (to - from),
    rowsOf(prompts.length, workers.rank).length * split,
  );
  const task = progress.task("sampling", ownSteps, "steps");
  try {
    // Roots: from x_T to the split. Their latents are kept in state 0 of their branches' records.
    await policy.batches.each(
      own(prompts.length),
      task,
      (start, rows, { advance }) => {
        const chunk = prompts.slice(start, start + rows);
        const addresses = chunk.map((_, i) => noiseKey(start + i, 0));
        return denoise(policy, gaussian(addresses, 0, shape, device), chunk, addresses, {
          timesteps,
          from: 0,
          to: split,
          isNoisy,
          signal,
          onStep: () => advance(rows),
        });
      },
      (x, start, rows) => {
        tidy(() => void record.place(start * images, rows * images, 0).copy_(x.repeatInterleave(images, 0)));
        x.dispose();
      },
    );
    const splits = record.states(0);
    await exchange(prompts.length, images, [splits]);
    splits.dispose();
    // Branches: from the split to the image, or in a tree from one split to the next.
    for (const level of levels) {
      const { from, to, edges } = level;
      const make = async (
        start: number,
        rows: number,
        { advance }: Pick<ProgressTask, "advance">,
      ): Promise<ChunkRecord> => {
        const numbers = Array.from({ length: rows }, (_, i) => start + i);
        const chunk = numbers.map((edge) => prompts[Math.floor(edge / edges)]!);
        const addresses = numbers.map((edge) => noiseKey(Math.floor(edge / edges), (edge % edges) + 1));
        const held = record.edges(start, rows, level.images, device);
        try {
          const last = await denoise(policy, held.state(from), chunk, addresses, {
            timesteps,
            from: split + from,
            to: split + to,
            isNoisy,
            signal,
            onStep: (step, x, logProb) => {
              held.keep(step - split, x, logProb);
              advance(rows);
            },
          });
          last.dispose();
          return held;
        } catch (error) {
          held.dispose();
          throw error;
        }
      };
      await policy.batches.each(own(prompts.length * edges), task, make, (held) => {
        try {
          held.finish();
        } finally {
          held.dispose();
        }
      });
      await exchange(prompts.length * edges, level.images, record.all);
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

  /** Everything that is recorded. */
  get all(): Tensor[] {
    return this.logProbs === undefined ? [this.latents] : [this.latents, this.logProbs];
  }

  /** A view of all rows' latents at one recorded state, [n, ...latent]. */
  states(state: number): Tensor {
    return this.latents.select(1, state);
  }

  /** The rows of some edges of a level, each with so many images below it. */
  edges(start: number, rows: number, images: number, device: Device): ChunkRecord {
    const part = (record: Tensor): Tensor =>
      tidy(() => record.narrow(0, start * images, rows * images).view([rows, images, ...record.shape.slice(1)]));
    return new ChunkRecord(part(this.latents), this.logProbs && part(this.logProbs), device);
  }

  dispose(): void {
    this.latents.dispose();
    this.logProbs?.dispose();
  }
}

/**
 * Records the steps of some edges, in the rows of the first image below each, and then in those of the others. On a GPU
 * they are collected there and copied to the CPU once per chunk: a copy per step would make the GPU wait for the CPU each
 * time.
 */
class ChunkRecord {
  /** Views of the record, [rows, images, ...]. */
  readonly #records: readonly Tensor[];
  /**
   * Of each, the first image's: as views, and where steps are collected. On the CPU the two are the same, except where
   * steps overwrite the state that they began with, which a second attempt needs.
   */
  readonly #first: readonly Tensor[];
  readonly #held: readonly Tensor[];

  constructor(latents: Tensor, logProbs: Tensor | undefined, device: Device) {
    this.#records = logProbs === undefined ? [latents] : [latents, logProbs];
    this.#first = this.#records.map((record) => record.select(1, 0));
    const isCpu = device === "cpu";
    const copied = (first: Tensor): Tensor => tidy(() => (isCpu ? first.clone() : first.to({ device })));
    this.#held = isCpu && logProbs !== undefined ? this.#first : this.#first.map(copied);
  }

  /** A copy of the latents before a step, on the device. */
  state(step: number): Tensor {
    return tidy(() => this.#latents.select(1, this.#logProbs === undefined ? 0 : step).clone());
  }

  /** Without transitions each step overwrites the one before, which leaves the final latents. */
  keep(step: number, x: Tensor, logProb: Tensor): void {
    this.#latents.select(1, this.#logProbs === undefined ? 0 : step + 1).copy_(x);
    this.#logProbs?.select(1, step).copy_(logProb);
  }

  finish(): void {
    this.#records.forEach((record, i) => {
      const first = this.#first[i]!;
      if (this.#held !== this.#first) first.copy_(this.#held[i]!);
      const others = record.size(1) - 1;
      if (others > 0) tidy(() => void record.narrow(1, 1, others).copy_(first.unsqueeze(1)));
    });
  }

  dispose(): void {
    for (const tensor of [...this.#records, ...this.#first, ...this.#held]) tensor.dispose();
  }

  get #latents(): Tensor {
    return this.#held[0]!;
  }

  get #logProbs(): Tensor | undefined {
    return this.#held[1];
  }
}
