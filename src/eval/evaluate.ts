/**
 * Evaluates a model on prompts it trains on and on prompts it never sees: reward, true alignment as a whole and slot by
 * slot, and diversity.
 *
 * Every evaluation draws the same noise for the same prompts, so that two of them can be compared prompt by prompt.
 * Several workers share the images, and all get all measures.
 */
import type { Config } from "../b2/config/schema.js";
import type { Policy } from "../b2/policy/policy.js";
import { completeRewards, shareOutcomes } from "../b2/rollout/outcomes.js";
import { thinOut, type PromptLists } from "../b2/rollout/prompts.js";
import { meanAndDeviation } from "../base/statistics.js";
import { alone, gatherRows, type Group, type Share, type WithWorkers } from "../distributed/index.js";
import type { ImageKey } from "../rewards/index.js";
import { tensor, tidy, type Tensor } from "../torch/index.js";
import { cosineDistance, meanOverPairs, pairsOf, pixelDistance, pixelRows, unitRows } from "./diversity.js";
import { evaluationNoise, generateImages, imagesOfWorker } from "./images.js";
import type { Judges, Verdict } from "./judges.js";
import { rowOf, type Evaluation, type EvaluationRow, type PromptMeasures } from "./measures.js";

type EvaluationConfig = Pick<Config, "seed" | "sample" | "eval">;

/** Generates images for both prompt lists and measures them. @throws Interrupted when the context's signal aborts */
export async function evaluate(
  policy: Policy,
  judges: Judges,
  lists: PromptLists,
  config: EvaluationConfig,
  context: WithWorkers,
): Promise<Evaluation> {
  const { using = (work) => work() } = judges;
  return using(() => evaluateLists(policy, judges, lists, config, context));
}

async function evaluateLists(
  policy: Policy,
  judges: Judges,
  lists: PromptLists,
  config: EvaluationConfig,
  context: WithWorkers,
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
  context: WithWorkers,
): Promise<EvaluationRow> {
  const each = config.eval.imagesPerPrompt;
  const wanted = prompts.flatMap((prompt, root) =>
    Array.from({ length: each }, (_, branch) => ({ prompt, noise: evaluationNoise(config.seed, root, branch) })),
  );
  const labels = [...judges.rewards.labels, ...judges.rewards.judges];
  const { workers = alone } = context;
  const shareOfRank = (rank: number): Share => imagesOfWorker(wanted.length, config, { rank, size: workers.size });
  const first = shareOfRank(workers.rank).start;
  const own: Measured[] = [];
  const ownFeatures: Float32Array[] = [];
  const ownPixels: Float32Array[] = [];
  const use = async (images: Tensor, batch: string[], start: number): Promise<void> => {
    const scores = await judges.rewards.score(images, batch, {
      keys: batch.map((_, i) => imageKey(name, Math.floor((start + i) / each), (start + i) % each)),
      metadata: batch.map((prompt) => metadata?.get(prompt) ?? {}),
      judges: true,
      ...(context.signal && { signal: context.signal }),
    });
    const verdicts = await judges.truth?.(images, batch);
    const features = judges.features && unitRows(judges.features, images);
    const pixels = verdicts && pixelRows(images);
    batch.forEach((_, i) => {
      const at = start - first + i;
      const parts = labels.map((label) => scores.parts[label]![i]!);
      own[at] = { total: scores.total[i]!, parts, ...(verdicts && { verdict: verdicts[i]! }) };
      if (features !== undefined) ownFeatures[at] = features[i]!;
      if (pixels !== undefined) ownPixels[at] = pixels[i]!;
    });
  };
  const generating = { label: `evaluating ${name} prompts`, use };
  const shared = await shareOutcomes(workers, async () => {
    await generateImages(policy, wanted, config, generating, context);
    return own;
  });
  const measured = shared.flat();
  const gather = (rows: readonly Float32Array[]): Promise<readonly Float32Array[]> =>
    gatherArrays(rows, wanted.length, workers, shareOfRank);
  const features = judges.features === undefined ? [] : await gather(ownFeatures);
  const pixels = judges.truth === undefined ? [] : await gather(ownPixels);
  await completeRewards(judges.rewards, workers, { judges: true });

  const totals = measured.map(({ total }) => total);
  const parts = labels.map((_, at) => measured.map((image) => image.parts[at]!));
  const verdicts = measured.flatMap(({ verdict }) => verdict ?? []);
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
      rewards: Object.fromEntries(labels.map((label, at) => [label, mean(parts[at]!)])),
    };
  });
  return rowOf({ prompts: name, images: wanted.length, judges: judges.rewards.judges, perPrompt });
}

/** What is measured of an image besides its features and pixels. */
interface Measured {
  readonly total: number;
  /** In the order of the rewards' labels. */
  readonly parts: readonly number[];
  readonly verdict?: Verdict;
}

/** The rows of all workers' images, in the order of the images. */
async function gatherArrays(
  own: readonly Float32Array[],
  total: number,
  workers: Group,
  shareOfRank: (rank: number) => Share,
): Promise<readonly Float32Array[]> {
  if (workers.size === 1) return own;
  const rows = tidy(() => own.map((row) => tensor(row)));
  const all = await gatherRows(rows, total, workers, shareOfRank);
  const width = all.size(1);
  const flat = all.toTypedArray() as Float32Array;
  for (const row of [...rows, all]) row.dispose();
  return Array.from({ length: total }, (_, i) => flat.subarray(i * width, (i + 1) * width));
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
