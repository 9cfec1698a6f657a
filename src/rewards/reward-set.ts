/**
 * The rewards of a run together: each scored on its own, and their weighted sum, which is what the method maximises. They
 * are summed as they are, so that a weight is in the units of its reward.
 */
import { optionsOf, type Named } from "../base/registry.js";
import type { Tensor } from "../torch/index.js";
import { checkRewards, rewards, type Reward, type RewardContext, type RewardFunction } from "./reward.js";

/** A reward as a config names it, with what it counts for. */
export type WeightedReward = Named & {
  readonly weight: number;
  /** What it is called in tables and metrics; null is its name. */
  readonly label: string | null;
};

/** Rewards of a batch of images. */
export interface Scores {
  /** The weighted sum, one an image. */
  readonly total: readonly number[];
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** What each took, in seconds of wall time. */
  readonly seconds: Readonly<Record<string, number>>;
}

interface Member {
  readonly label: string;
  readonly weight: number;
  readonly reward: Reward;
}

/** What a reward is called in tables and metrics. */
export function labelOf(named: WeightedReward): string {
  if (named.label !== null) return named.label;
  const kind = rewards.get(named.name);
  return kind.label?.(optionsOf(kind, named)) ?? named.name;
}

/** What a program's own reward is called. */
const OWN_LABEL = "reward";

/** A reward in an error. */
const nameOf = (label: string): string => (label === OWN_LABEL ? "the reward" : `the reward ${label}`);

export class RewardSet {
  readonly #members: readonly Member[];

  private constructor(members: readonly Member[]) {
    this.#members = members;
  }

  /** The labels, in the config's order. */
  get labels(): string[] {
    return this.#members.map(({ label }) => label);
  }

  /** A program's own reward alone. */
  static of(reward: RewardFunction | Reward, label = OWN_LABEL): RewardSet {
    const own = typeof reward === "function" ? { score: reward } : reward;
    return new RewardSet([{ label, weight: 1, reward: own }]);
  }

  /**
   * Opens the rewards of a config.
   *
   * @throws InputError for one that cannot be opened; those before it are disposed of
   */
  static async open(named: readonly WeightedReward[], context: RewardContext): Promise<RewardSet> {
    const members: Member[] = [];
    try {
      for (const entry of named) {
        const kind = rewards.get(entry.name);
        const reward = await kind.open(optionsOf(kind, entry), context);
        members.push({ label: labelOf(entry), weight: entry.weight, reward });
      }
    } catch (error) {
      new RewardSet(members).dispose();
      throw error;
    }
    return new RewardSet(members);
  }

  /**
   * @param images float32 [B, 3, H, W] in 0..1, the caller's to dispose
   * @throws RewardError naming the reward that does not give one finite number for each image
   */
  async score(images: Tensor, prompts: string[]): Promise<Scores> {
    const parts: Record<string, number[]> = {};
    const seconds: Record<string, number> = {};
    for (const { label, reward } of this.#members) {
      const start = performance.now();
      parts[label] = checkRewards(await reward.score(images, prompts), prompts, nameOf(label));
      seconds[label] = (performance.now() - start) / 1000;
    }
    const total = prompts.map((_, i) =>
      this.#members.map(({ label, weight }) => weight * parts[label]![i]!).reduce((sum, x) => sum + x),
    );
    return { total, parts, seconds };
  }

  dispose(): void {
    for (const { reward } of this.#members) reward.dispose?.();
  }
}
