/**
 * Evaluates a model on prompts it trains on and on prompts it never sees: reward, true alignment as a whole and slot by
 * slot, and diversity.
 *
 * Every evaluation draws the same noise for the same prompts, so that two of them can be compared prompt by prompt.
 */
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { thinOut, type PromptLists } from "../b2/rollout/prompts.js";
import type { RunContext } from "../base/progress.js";
import { meanAndDeviation } from "../base/statistics.js";
import type { ImageKey } from "../rewards/index.js";
import type { Tensor } from "../torch/index.js";
import { cosineDistance, meanOverPairs, pairsOf, pixelDistance, pixelRows, unitRows } from "./diversity.js";
import { evaluationNoise, generateImages } from "./images.js";
import type { Judges, Verdict } from "./judges.js";
import { rowOf, type Evaluation, type EvaluationRow, type PromptMeasures } from "./measures.js";

type EvaluationConfig = Pick<Config, "seed" | "sample" | "eval">;

/** Generates images for both prompt lists and measures them. @throws Interrupted when the context's signal aborts */
export async function evaluate(
  policy: Policy,
  judges: Judges,
  lists: PromptLists,
  config: EvaluationConfig,
  context: RunContext,
): Promise<Evaluation> {
  const { using = (work) => work() } = judges;
  return using(() => evaluateLists(policy, judges, lists, config, context));
}

async function evaluateLists(
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
    const { metadata } = lists;
    rows.push(await evaluateList(policy, judges, { name, prompts, metadata }, config, context));
  }
  return { rows };
}

async function evaluateList(
  policy: Policy,
  judges: Judges,
  {
    name,
    prompts,
    metadata,
  }: { name: EvaluationRow["prompts"]; prompts: readonly string[]; metadata: PromptLists["metadata"] },
  config: EvaluationConfig,
  context: RunContext,
): Promise<EvaluationRow> {
  const each = config.eval.imagesPerPrompt;
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: each }, (_, branch) => ({ prompt, noise: evaluationNoise(config.seed, root, branch) })),
  );
  const labels = [...judges.rewards.labels, ...judges.rewards.judges];
  const totals: number[] = [];
  const parts: Record<string, number[]> = Object.fromEntries(labels.map((label) => [label, []]));
  const verdicts: Verdict[] = [];
  const features: Float32Array[] = [];
  const pixels: Float32Array[] = [];
  const use = async (images: Tensor, batch: string[], start: number): Promise<void> => {
    const scores = await judges.rewards.score(images, batch, {
      keys: batch.map((_, i) => imageKey(name, Math.floor((start + i) / each), (start + i) % each)),
      metadata: batch.map((prompt) => metadata?.get(prompt) ?? {}),
      judges: true,
      ...(context.signal && { signal: context.signal }),
    });
    totals.push(...scores.total);
    for (const label of labels) parts[label]!.push(...scores.parts[label]!);
    if (judges.features !== undefined) features.push(...unitRows(judges.features, images));
    if (judges.truth === undefined) return;
    verdicts.push(...(await judges.truth(images, batch)));
    pixels.push(...pixelRows(images));
  };
  await generateImages(policy, wanted, config, { label: `evaluating ${name} prompts`, use }, context);
  await judges.rewards.complete({ judges: true });

  const perPrompt = prompts.map((prompt, i): PromptMeasures => {
    const own = <T>(all: readonly T[]): readonly T[] => all.slice(i * each, (i + 1) * each);
    const mean = (values: readonly number[]): number => meanAndDeviation(own(values)).mean;
    const judged = own(verdicts);
    const right = <T>(all: readonly T[]): T[] => own(all).filter((_, image) => judged[image]?.right);
    return {
      prompt,
      reward: mean(totals),
      trueAlignment: judged.length === 0 ? null : share(judged.map((verdict) => verdict.right)),
      diversity: meanOverPairs(own(features), cosineDistance),
      diversityAmongRight: meanOverPairs(right(features), cosineDistance),
      pixelDiversityAmongRight: meanOverPairs(right(pixels), pixelDistance),
      rightPairs: judged.length === 0 ? null : pairsOf(right(verdicts).length),
      slots: slotShares(judged),
      rewards: Object.fromEntries(labels.map((label) => [label, mean(parts[label]!)])),
    };
  });
  return rowOf({ prompts: name, images: wanted.length, judges: judges.rewards.judges, perPrompt });
}

/** The images of a prompt compete with each other. */
const imageKey = (list: EvaluationRow["prompts"], prompt: number, index: number): ImageKey => ({
  group: `${list}/prompt-${String(prompt).padStart(4, "0")}`,
  index,
});

/** By slot, the share of a prompt's images in which it is right. */
function slotShares(verdicts: readonly Verdict[]): Record<string, number> {
  const names = Object.keys(verdicts[0]?.slots ?? {});
  return record(names, (slot) => share(verdicts.map(({ slots }) => slots?.[slot] ?? false)));
}

const share = (values: readonly boolean[]): number => values.filter(Boolean).length / values.length;

const record = <K extends string, T>(keys: readonly K[], value: (key: K) => T): Record<K, T> =>
  Object.fromEntries(keys.map((key) => [key, value(key)])) as Record<K, T>;
