/**
 * Samples what a probe needs: roots, branches of each root from several splits, and independent images beside them. A
 * root is denoised once; at each split the latent that it has there is branched, so that R roots of K branches cost at
 * most R T + R K (s_1 + s_2 + ... + T) steps.
 */
import { chunks } from "../../base/chunks.js";
import { InputError } from "../../base/errors.js";
import type { Progress, ProgressTask, RunContext } from "../../base/progress.js";
import type { RewardSet } from "../../rewards/index.js";
import { tidy, zeros, type Tensor } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import type { Policy } from "../policy/policy.js";
import { decodeInBatches } from "../rollout/decode.js";
import { denoise, gaussian, type NoiseKey } from "../rollout/denoise.js";
import type { PromptLists } from "../rollout/prompts.js";

/** What a probe samples. */
export interface ProbePlan {
  /** The stage before which it measures: another stage draws other noise. 0 outside of a training. */
  readonly stage: number;
  /** One per root. */
  readonly prompts: readonly string[];
  /** How many of the last steps are branched: ascending, ending with T. */
  readonly splits: readonly number[];
  /** K, at least 2. */
  readonly branches: number;
}

/** The measures of an image, by name. Images of a prompt have the same ones. */
export type Readings = Readonly<Record<string, number>>;

/** Measures images [B, 3, H, W] besides the rewards: one record for each. */
export type ReadImages = (
  images: Tensor,
  prompts: readonly string[],
) => readonly Readings[] | Promise<readonly Readings[]>;

/** What was measured on the branches of a root. */
export interface ProbedRoot {
  readonly prompt: string;
  /** By the name of the measure: for each split the values of the K branches. */
  readonly values: Readonly<Record<string, readonly (readonly number[])[]>>;
}

/** The work of a plan. */
export interface ProbeCost {
  /** Denoising steps of single images; guidance doubles the passes of each. */
  readonly steps: number;
  /** Images that are decoded and scored: reward queries. */
  readonly images: number;
}

/** @param plan `roots` is how many there are */
export function probeCost(plan: Pick<ProbePlan, "splits" | "branches"> & { readonly roots: number }): ProbeCost {
  const { roots, splits, branches } = plan;
  const trunk = splits.length < 2 ? 0 : splits.at(-1)! - splits[0]!;
  const branched = splits.reduce((sum, s) => sum + s, 0);
  return { steps: roots * (trunk + branches * branched), images: roots * branches * splits.length };
}

/** How many roots are probed together: their branches fill a batch. */
export const rootsAtOnce = (branches: number, { sample }: Pick<Config, "sample">): number =>
  Math.max(1, Math.floor(sample.batchSize / branches));

/**
 * Probes the roots of a plan, some at a time, in order.
 *
 * At the last split, T, images are independent: each has an x_T of its own. Noise depends on (seed, stage, root, split,
 * branch, step) alone.
 *
 * @param options.from the first root that is probed; those before it are known
 * @throws InputError for a scheduler that draws no noise, since all branches of a root would be the same image
 * @throws Interrupted when the context's signal aborts
 */
export async function* probeRoots(
  policy: Policy,
  rewards: RewardSet,
  plan: ProbePlan,
  config: Pick<Config, "seed" | "sample">,
  {
    read,
    metadata,
    from = 0,
    progress,
    signal,
  }: RunContext & {
    readonly read?: ReadImages | undefined;
    readonly metadata?: PromptLists["metadata"];
    readonly from?: number;
  },
): AsyncGenerator<ProbedRoot[]> {
  expectNoise(policy);
  const left = plan.prompts.length - from;
  const task = progress.task("probing", probeCost({ ...plan, roots: left }).steps, "steps");
  const probe = new Probe(policy, rewards, plan, config, { read, metadata, task, progress, signal });
  try {
    for (const [start, count] of chunks(left, rootsAtOnce(plan.branches, config))) {
      yield await probe.roots(from + start, count);
    }
  } finally {
    task.done();
  }
}

/** @throws InputError when no step of a trajectory draws noise */
function expectNoise(policy: Policy): void {
  const draws = tidy(() => {
    const x = zeros([1, ...policy.latentShape], { device: policy.device });
    return policy.timesteps.some((t) => policy.transition(x, t, x, { noise: x }).sigma.some((sigma) => sigma > 0));
  });
  if (draws) return;
  throw new InputError(
    "Expected a scheduler that draws noise, from which branches differ, but received one whose steps are deterministic",
  );
}

interface ProbeOptions {
  readonly read: ReadImages | undefined;
  readonly metadata: PromptLists["metadata"];
  readonly task: ProgressTask;
  readonly progress: Progress;
  readonly signal: AbortSignal | undefined;
}

class Probe {
  readonly #policy: Policy;
  readonly #rewards: RewardSet;
  readonly #plan: ProbePlan;
  readonly #config: Pick<Config, "seed" | "sample">;
  readonly #options: ProbeOptions;

  constructor(
    policy: Policy,
    rewards: RewardSet,
    plan: ProbePlan,
    config: Pick<Config, "seed" | "sample">,
    options: ProbeOptions,
  ) {
    this.#policy = policy;
    this.#rewards = rewards;
    this.#plan = plan;
    this.#config = config;
    this.#options = options;
  }

  /** Probes some roots at all splits. */
  async roots(start: number, count: number): Promise<ProbedRoot[]> {
    const { splits, branches, prompts } = this.#plan;
    const steps = splits.at(-1)!;
    const own = prompts.slice(start, start + count);
    const rows = own.flatMap((prompt, i) =>
      Array.from({ length: branches }, (_, branch) => ({ root: start + i, branch, prompt })),
    );
    const noiseAt = (s: number): NoiseKey[] => rows.map(({ root, branch }) => this.#noise(root, s, branch + 1));
    const measured: Readings[][] = [];
    const branched = rows.map(({ prompt }) => prompt);

    const noise = own.map((_, i) => this.#noise(start + i, 0, 0));
    let x = gaussian(noise, 0, this.#policy.latentShape, this.#policy.device);
    let at = 0;
    try {
      for (const s of splits.slice(0, -1).reverse()) {
        x = await this.#denoise(x, own, noise, at, steps - s);
        at = steps - s;
        const first = tidy(() => x.repeatInterleave(branches, 0));
        measured.unshift(await this.#measure(first, branched, noiseAt(s), at));
      }
    } finally {
      x.dispose();
    }
    const independent = noiseAt(steps);
    const first = gaussian(independent, 0, this.#policy.latentShape, this.#policy.device);
    measured.push(await this.#measure(first, branched, independent, 0));
    return own.map((prompt, i) => ({ prompt, values: valuesOfRoot(measured, i * branches, branches) }));
  }

  /** The measures of images whose latents at step `from` are given. @param first disposed of */
  async #measure(
    first: Tensor,
    prompts: readonly string[],
    noise: readonly NoiseKey[],
    from: number,
  ): Promise<Readings[]> {
    const { batchSize, decodeBatchSize } = this.#config.sample;
    const measured: Readings[] = [];
    try {
      const { progress, signal, task } = this.#options;
      const work = { key: "sample.batchSize", total: prompts.length, size: batchSize, progress } as const;
      const make = (start: number, rows: number, task: Pick<ProgressTask, "advance">): Promise<Tensor> => {
        const x = tidy(() => first.narrow(0, start, rows).clone());
        const own = noise.slice(start, start + rows);
        return this.#denoise(x, prompts.slice(start, start + rows), own, from, this.#plan.splits.at(-1)!, task);
      };
      await this.#policy.batches.each(work, task, make, async (latents, start, rows) => {
        const part = prompts.slice(start, start + rows);
        try {
          const decoding = { batchSize: decodeBatchSize, signal, progress };
          await decodeInBatches(this.#policy, latents, decoding, async (images, offset) => {
            const own = noise.slice(start + offset, start + offset + images.size(0));
            measured.push(...(await this.#score(images, part.slice(offset, offset + own.length), own)));
          });
        } finally {
          latents.dispose();
        }
      });
    } finally {
      first.dispose();
    }
    return measured;
  }

  async #score(images: Tensor, prompts: string[], noise: readonly NoiseKey[]): Promise<Readings[]> {
    const { metadata, signal } = this.#options;
    const { total, parts } = await this.#rewards.score(images, prompts, {
      // The branches of a root at a split compete with each other.
      keys: noise.map(({ root, branch }) => ({ group: `probe/${root}`, index: branch - 1 })),
      metadata: prompts.map((prompt) => metadata?.get(prompt) ?? {}),
      ...(signal && { signal }),
    });
    const labels = this.#rewards.labels.length > 1 ? this.#rewards.labels : [];
    const read = await this.#options.read?.(images, prompts);
    return total.map((reward, i) => ({
      reward,
      ...Object.fromEntries(labels.map((label) => [`rewards.${label}`, parts[label]![i]!])),
      ...read?.[i],
    }));
  }

  #denoise(
    x: Tensor,
    prompts: readonly string[],
    noise: readonly NoiseKey[],
    from: number,
    to: number,
    task: Pick<ProgressTask, "advance"> = this.#options.task,
  ): Promise<Tensor> {
    const { signal } = this.#options;
    const { timesteps } = this.#policy;
    const onStep = (): void => task.advance(prompts.length);
    return denoise(this.#policy, x, prompts, noise, { timesteps, from, to, signal, onStep });
  }

  /** Split 0 stands for the root's own trajectory. */
  #noise(root: number, split: number, branch: number): NoiseKey {
    const { stage, splits } = this.#plan;
    const place = root * (splits.at(-1)! + 1) + split;
    return { seed: this.#config.seed, stream: "probe", stage, root: place, branch };
  }
}

/** The values of a root's branches at each split, by measure. @param start its first row */
function valuesOfRoot(
  measured: readonly (readonly Readings[])[],
  start: number,
  branches: number,
): ProbedRoot["values"] {
  const own = measured.map((split) => split.slice(start, start + branches));
  const names = Object.keys(own[0]![0]!);
  return Object.fromEntries(names.map((name) => [name, own.map((split) => split.map((image) => image[name]!))]));
}
