/**
 * Evaluates a model on prompts it trains on and on prompts it never sees: reward, true alignment and diversity.
 *
 * Every evaluation draws the same noise for the same prompts, so that two of them can be compared prompt by
 * prompt. Errors are standard errors over prompts, because images of one prompt are not independent.
 */
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { thinOut, type PromptLists } from "../b2/rollout/prompts.js";
import type { RunContext } from "../base/progress.js";
import { meanAndDeviation } from "../base/statistics.js";
import { inference, type Tensor } from "../torch/index.js";
import { evaluationNoise, generateImages } from "./images.js";
import type { Judges } from "./judges.js";
import {
  estimate,
  measures,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
  type PromptMeasures,
} from "./measures.js";

type EvaluationConfig = Pick<Config, "seed" | "sample" | "eval">;

/** Generates images for both prompt lists and measures them. @throws Interrupted when the context's signal aborts */
export async function evaluate(
  policy: Policy,
  judges: Judges,
  lists: PromptLists,
  config: EvaluationConfig,
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
  config: EvaluationConfig,
  context: RunContext,
): Promise<EvaluationRow> {
  const each = config.eval.imagesPerPrompt;
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: each }, (_, branch) => ({ prompt, noise: evaluationNoise(config.seed, root, branch) })),
  );
  const { labels } = judges.rewards;
  const totals: number[] = [];
  const parts: Record<string, number[]> = Object.fromEntries(labels.map((label) => [label, []]));
  const aligned: number[] = [];
  const features: Float32Array[] = [];
  const use = async (images: Tensor, batch: string[]): Promise<void> => {
    const scores = await judges.rewards.score(images, batch);
    totals.push(...scores.total);
    for (const label of labels) parts[label]!.push(...scores.parts[label]!);
    if (judges.truth !== undefined) aligned.push(...(await judges.truth(images, batch)).map(Number));
    if (judges.features !== undefined) features.push(...unitRows(judges.features, images));
  };
  await generateImages(policy, wanted, config, { label: `evaluating ${name} prompts`, use }, context);

  const perPrompt = prompts.map((prompt, i): PromptMeasures => {
    const own = <T>(all: readonly T[]): readonly T[] => all.slice(i * each, (i + 1) * each);
    const mean = (values: readonly number[]): number => meanAndDeviation(own(values)).mean;
    return {
      prompt,
      reward: mean(totals),
      trueAlignment: aligned.length === 0 ? null : mean(aligned),
      diversity: features.length === 0 || each < 2 ? null : meanDistance(own(features)),
      rewards: Object.fromEntries(labels.map((label) => [label, mean(parts[label]!)])),
    };
  });
  const over = (of: (prompt: PromptMeasures) => number | null): Estimate | null => estimate(perPrompt.map(of));
  const estimates = Object.fromEntries(measures.map((measure) => [measure, over((prompt) => prompt[measure])]));
  const rewards = Object.fromEntries(labels.map((label) => [label, over((prompt) => prompt.rewards![label]!)!]));
  return {
    prompts: name,
    images: wanted.length,
    ...(estimates as Record<Measure, Estimate | null>),
    rewards,
    perPrompt,
  };
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

/** Features of length 1, one array per image. */
function unitRows(features: (images: Tensor) => Tensor, images: Tensor): Float32Array[] {
  const [width, flat] = inference(() => {
    const rows = features(images).to({ dtype: "float32", device: "cpu" });
    const unit = rows.div(rows.norm({ dim: 1, keepdim: true }));
    return [rows.size(1), unit.toTypedArray() as Float32Array];
  });
  return Array.from({ length: images.size(0) }, (_, i) => flat.subarray(i * width, (i + 1) * width));
}
