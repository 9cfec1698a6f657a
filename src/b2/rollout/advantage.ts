/**
 * Turns rewards into advantages (section 4.2 of the paper): how much better a sample is than others of its prompt.
 *
 * Departures from the reference: a prompt with a single sample has advantage 0, where the reference has NaN; and
 * "branch-centred" and "group-relative" are additions. The latter is GRPO's (Shao et al. 2024, arXiv 2402.03300), with
 * Flow-GRPO's group: all images of the prompt in the stage, of whichever roots.
 */
import { meanAndDeviation } from "../../base/statistics.js";
import type { Level } from "./tree.js";

/** Rewards of one prompt's samples, stage by stage; `rewards[i]` belongs to `prompts[i]`. */
export interface PromptRewards {
  readonly prompts: readonly string[];
  readonly rewards: readonly number[];
}

/** How advantages are computed. */
export interface AdvantageOptions {
  readonly mode: "prompt-history" | "branch-centred" | "group-relative";
  /** Branches per root, adjacent in the lists. */
  readonly branchCount: number;
  /** How many of a prompt's latest rewards count; null for all. */
  readonly historyImages?: number | null;
  /** A prompt with fewer rewards has the mean and the deviation of the whole stage. */
  readonly minImages?: number;
}

/**
 * The advantage of every sample of a stage.
 *
 * "prompt-history": z = (R - mean_p) / (std_p + 1e-8), over all rewards of prompt p in this stage and in `history`,
 * with the sample standard deviation. "branch-centred": the mean is that of the sample's own root instead.
 * "group-relative": mean and deviation are those of this stage alone. `historyImages` and `minImages` are the buffer of
 * ddpo-pytorch.
 *
 * @param current this stage, ordered by root, then by branch
 * @param history the last H stages; not used by "group-relative"
 */
export function advantages(
  current: PromptRewards,
  history: readonly PromptRewards[],
  { mode, branchCount, historyImages = null, minImages = 1 }: AdvantageOptions,
): number[] {
  const byPrompt = new Map<string, number[]>();
  for (const { prompts, rewards } of mode === "group-relative" ? [current] : [...history, current]) {
    prompts.forEach((prompt, i) => {
      const known = byPrompt.get(prompt);
      if (known === undefined) byPrompt.set(prompt, [rewards[i]!]);
      else known.push(rewards[i]!);
    });
  }
  const ofStage = meanAndDeviation(current.rewards);
  const statistics = new Map(
    [...byPrompt].map(([prompt, rewards]) => {
      const latest = historyImages === null ? rewards : rewards.slice(-historyImages);
      return [prompt, latest.length < minImages ? ofStage : meanAndDeviation(latest)];
    }),
  );
  return current.rewards.map((reward, i) => {
    const { mean, deviation } = statistics.get(current.prompts[i]!)!;
    const root = Math.floor(i / branchCount) * branchCount;
    const baseline =
      mode === "branch-centred" ? meanAndDeviation(current.rewards.slice(root, root + branchCount)).mean : mean;
    return (reward - baseline) / (deviation + 1e-8);
  });
}

/**
 * The advantages of a tree's nodes, level by level, the images last. A node is worth the mean reward of its images, and
 * is compared with the nodes of its level: of its prompt, or for "branch-centred" of its parent.
 *
 * @param current this stage, ordered by root, then by branch
 * @param history the last H stages, of the same levels
 */
export function advantagesByLevel(
  current: PromptRewards,
  history: readonly PromptRewards[],
  levels: readonly Pick<Level, "count" | "images">[],
  options: Omit<AdvantageOptions, "branchCount">,
): number[][] {
  return levels.map(({ count, images }) => {
    const nodes = (stage: PromptRewards): PromptRewards => nodeRewards(stage, images);
    return advantages(nodes(current), history.map(nodes), { ...options, branchCount: count });
  });
}

/** The mean rewards of nodes with so many adjacent images each. */
function nodeRewards(stage: PromptRewards, images: number): PromptRewards {
  if (images === 1) return stage;
  const first = Array.from({ length: stage.rewards.length / images }, (_, node) => node * images);
  return {
    prompts: first.map((i) => stage.prompts[i]!),
    rewards: first.map((i) => meanAndDeviation(stage.rewards.slice(i, i + images)).mean),
  };
}

/**
 * The advantages of several rewards together: their weighted sum over the length of the weights' vector, so that
 * independent rewards have the spread that a single one has, and thresholds and clipping mean the same.
 *
 * Source: each reward is normalised before the sum as in GDPO (Liu et al. 2026, arXiv 2601.05242), so that none drowns
 * the others by its scale; its normalisation over the batch is left out, which would make a row depend on all others.
 *
 * @param byReward of each reward its weight, and its advantages level by level
 */
export function combinedAdvantages(
  byReward: readonly { readonly weight: number; readonly levels: readonly (readonly number[])[] }[],
): number[][] {
  const length = Math.hypot(...byReward.map(({ weight }) => weight));
  const factors = byReward.map(({ weight }) => (length === 0 ? 0 : weight / length));
  return byReward[0]!.levels.map((level, depth) =>
    level.map((_, i) => byReward.reduce((sum, { levels }, k) => sum + factors[k]! * levels[depth]![i]!, 0)),
  );
}

/** Advantages as the update uses them: clipped, then weighted by sign (beta1 and beta2 of the paper). */
export function weightedAdvantages(
  advantages: readonly number[],
  { clip, positiveWeight, negativeWeight }: { clip: number; positiveWeight: number; negativeWeight: number },
): number[] {
  return advantages.map((a) => {
    const clipped = Math.min(Math.max(a, -clip), clip);
    return clipped * (clipped > 0 ? positiveWeight : negativeWeight);
  });
}
