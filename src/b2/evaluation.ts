/**
 * What a model is worth, on prompts it trains on and on prompts it never sees: reward, true alignment and diversity.
 *
 * Every evaluation draws the same noise for the same prompts, so that two of them can be compared pair by pair. The
 * errors are standard errors over prompts: images of one prompt are no independent evidence.
 */
import { checkRewards } from "../rewards/index.js";
import { yieldToEventLoop, noGrad, type Tensor, tidy } from "../torch/index.js";
import { chunks } from "../base/chunks.js";
import { meanAndDeviation } from "../base/statistics.js";
import type { Config } from "./config.js";
import type { Judges } from "./judges.js";
import type { Policy } from "./policy.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { type PromptLists, thinOut } from "./prompts.js";
import { denoise, gaussian, type NoiseKey } from "./sampling.js";

/** The measures, in the order of the tables. */
export const measures = ["reward", "trueAlignment", "diversity"] as const;

export type Measure = (typeof measures)[number];

/** A mean over prompts and its standard error; null where there is nothing to measure with. */
export interface Estimate {
  readonly mean: number;
  readonly error: number;
}

/** The measures of one prompt: means over its images. */
export type PromptMeasures = { readonly prompt: string } & Readonly<Record<Measure, number | null>>;

/** One list of prompts. */
export type EvaluationRow = {
  readonly prompts: "training" | "held-out";
  readonly images: number;
  readonly perPrompt: readonly PromptMeasures[];
} & Readonly<Record<Measure, Estimate | null>>;

export interface Evaluation {
  readonly rows: readonly EvaluationRow[];
}

/** Generates images of both lists and judges them. */
export async function evaluate(
  policy: Policy,
  judges: Judges,
  lists: PromptLists,
  config: Pick<Config, "seed" | "sample" | "reward" | "eval">,
  context: RunContext,
): Promise<Evaluation> {
  const rows: EvaluationRow[] = [];
  for (const name of ["training", "held-out"] as const) {
    const list = lists[name];
    if (list === undefined || list.length === 0) continue;
    const prompts = thinOut(list, config.eval.maxPrompts);
    rows.push(await evaluateList(policy, judges, { name, prompts }, config, context));
  }
  return { rows };
}

async function evaluateList(
  policy: Policy,
  judges: Judges,
  { name, prompts }: { name: EvaluationRow["prompts"]; prompts: readonly string[] },
  config: Pick<Config, "seed" | "sample" | "reward" | "eval">,
  context: RunContext,
): Promise<EvaluationRow> {
  const each = config.eval.imagesPerPrompt;
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: each }, (_, branch) => ({ prompt, noise: evaluationNoise(config.seed, root, branch) })),
  );
  const rewards: number[] = [];
  const aligned: number[] = [];
  const features: Float32Array[] = [];
  await generateImages(policy, wanted, config, context, `evaluating ${name} prompts`, async (images, batch) => {
    rewards.push(...checkRewards(await judges.reward(images, batch), batch));
    if (judges.truth !== undefined) aligned.push(...(await judges.truth(images, batch)).map(Number));
    if (judges.features !== undefined) features.push(...unitRows(judges.features, images));
  });
  const perPrompt = prompts.map((prompt, i): PromptMeasures => {
    const own = <T>(all: readonly T[]): readonly T[] => all.slice(i * each, (i + 1) * each);
    return {
      prompt,
      reward: meanAndDeviation(own(rewards)).mean,
      trueAlignment: aligned.length === 0 ? null : meanAndDeviation(own(aligned)).mean,
      diversity: features.length === 0 || each < 2 ? null : meanDistance(own(features)),
    };
  });
  const estimates = Object.fromEntries(
    measures.map((measure) => [measure, estimate(perPrompt.map((p) => p[measure]))]),
  );
  return { prompts: name, images: wanted.length, ...(estimates as Record<Measure, Estimate | null>), perPrompt };
}

/** After minus before, prompt by prompt; null where either was not measured or the prompts differ. */
export function change(before: EvaluationRow, after: EvaluationRow, measure: Measure): Estimate | null {
  const same =
    before.perPrompt.length === after.perPrompt.length &&
    before.perPrompt.every(({ prompt }, i) => prompt === after.perPrompt[i]!.prompt);
  if (!same) return null;
  return estimate(
    after.perPrompt.map((p, i) => {
      const [b, a] = [before.perPrompt[i]![measure], p[measure]];
      return a === null || b === null ? null : a - b;
    }),
  );
}

/** Generates images a few at a time, and lends each batch to `use`. */
export async function generateImages(
  policy: Policy,
  wanted: readonly { readonly prompt: string; readonly noise: NoiseKey }[],
  { sample, reward }: Pick<Config, "sample" | "reward">,
  { progress, signal }: RunContext,
  label: string,
  use: (images: Tensor, prompts: string[], start: number) => void | Promise<void>,
): Promise<void> {
  const timesteps = policy.timesteps(sample.steps);
  const task = progress.task(label, wanted.length * timesteps.length, "steps");
  try {
    for (const [start, rows] of chunks(wanted.length, sample.batchSize)) {
      const batch = wanted.slice(start, start + rows);
      const noise = batch.map((item) => item.noise);
      const prompts = batch.map(({ prompt }) => prompt);
      const latents = await denoise(policy, gaussian(noise, 0, policy.latentShape), prompts, noise, {
        ...{ timesteps, from: 0, to: timesteps.length, signal },
        onStep: () => task.advance(rows),
      });
      try {
        for (const [from, length] of chunks(rows, reward.batchSize)) {
          checkInterrupted(signal);
          const images = tidy(() => noGrad(() => policy.decode(latents.narrow(0, from, length))));
          try {
            await use(images, prompts.slice(from, from + length), start + from);
          } finally {
            images.dispose();
          }
          await yieldToEventLoop();
        }
      } finally {
        latents.dispose();
      }
    }
  } finally {
    task.done();
  }
}

/** Noise of evaluations and generated images; it never meets that of training. */
export const evaluationNoise = (seed: number, root: number, branch: number): NoiseKey => ({
  ...{ seed, purpose: "evaluation", stage: 0, root, branch },
});

/** Mean and standard error of the mean over prompts. */
function estimate(values: readonly (number | null)[]): Estimate | null {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return null;
  const { mean, deviation } = meanAndDeviation(known);
  return { mean, error: deviation / Math.sqrt(known.length) };
}

/** Diversity of one prompt's images: the mean over pairs of 1 - cosine of their features. */
function meanDistance(features: readonly Float32Array[]): number {
  let sum = 0;
  let pairs = 0;
  features.forEach((a, i) => {
    for (const b of features.slice(i + 1)) {
      sum += 1 - a.reduce((dot, x, k) => dot + x * b[k]!, 0);
      pairs++;
    }
  });
  return sum / pairs;
}

/** Features of length 1, an array an image. */
function unitRows(features: (images: Tensor) => Tensor, images: Tensor): Float32Array[] {
  let flat = new Float32Array(0);
  let width = 0;
  tidy(() => {
    const rows = noGrad(() => features(images)).to({ dtype: "float32", device: "cpu" });
    width = rows.size(1);
    flat = rows.div(rows.norm({ dim: 1, keepdim: true })).toTypedArray() as Float32Array<ArrayBuffer>;
  });
  return Array.from({ length: images.size(0) }, (_, i) => flat.subarray(i * width, (i + 1) * width));
}
