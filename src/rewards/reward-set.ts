/**
 * The rewards of a run: each is scored on its own. Those that train make up the weighted sum that is maximised; judges are
 * asked in evaluations only, to see whether the sum rises for the right reasons.
 */
import { optionsOf, type Named } from "../base/registry.js";
import { show } from "../base/show.js";
import type { Tensor } from "../torch/index.js";
import { askReward, type Asked } from "./ask.js";
import { RewardError } from "./error.js";
import {
  checkRewards,
  rewards,
  type Reward,
  type RewardContext,
  type RewardFunction,
  type ScoringCall,
} from "./reward.js";

/** What a reward is for. */
export type RewardRole = "train" | "judge";

/** A reward as a config names it, with the keys that every reward has. */
export type WeightedReward = Named & {
  readonly weight: number;
  /** Its name in tables and metrics; null for the reward's own name. */
  readonly label: string | null;
  /** Default "train". */
  readonly role?: RewardRole;
  /** Seconds for a batch of images; null, the default, for no limit. */
  readonly timeout?: number | null;
};

/** Rewards of a batch of images. */
export interface Scores {
  /** The weighted sum of those that train, one per image. */
  readonly total: readonly number[];
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds; of rewards that are asked side by side, each counts the same seconds. */
  readonly seconds: Readonly<Record<string, number>>;
}

/** What is asked of a set. */
export interface SetCall extends ScoringCall {
  /** Whether judges are asked too. Default: no. */
  readonly judges?: boolean;
}

interface Member extends Asked {
  readonly label: string;
  readonly weight: number;
  readonly role: RewardRole;
}

/** The name of a reward in tables and metrics. */
export function labelOf(named: Named & Pick<WeightedReward, "label">): string {
  if (named.label !== null) return named.label;
  const kind = rewards.get(named.name);
  return kind.label?.(optionsOf(kind, named)) ?? named.name;
}

/** The label of a program's own reward. */
const OWN_LABEL = "reward";

/** A reward as errors name it. */
const nameOf = (label: string): string => (label === OWN_LABEL ? "the reward" : `the reward ${label}`);

export class RewardSet {
  readonly #members: readonly Member[];
  #queries = 0;

  private constructor(members: readonly Member[]) {
    this.#members = members;
  }

  /** The labels of the rewards that train, in the config's order. */
  get labels(): string[] {
    return this.#of("train").map(({ label }) => label);
  }

  /** The labels of the judges, in the config's order. */
  get judges(): string[] {
    return this.#of("judge").map(({ label }) => label);
  }

  /** The weights of the rewards that train, in the order of `labels`. */
  get weights(): number[] {
    return this.#of("train").map(({ weight }) => weight);
  }

  /** Whether a reward that trains waits for something else than this process, so that other work can be done meanwhile. */
  get concurrent(): boolean {
    return this.#of("train").some(({ reward }) => reward.concurrent === true);
  }

  /** Whether scores of a batch stand by themselves: they do not where a reward may say at the end that some are missing. */
  get isFinal(): boolean {
    return this.#of("train").every(({ reward }) => reward.complete === undefined);
  }

  /** Images scored so far, whatever for; all rewards of the set score an image in one query. */
  get queries(): number {
    return this.#queries;
  }

  /** A set with only a program's own reward. @throws RewardError for something else than a reward */
  static of(reward: RewardFunction | Reward, label = OWN_LABEL): RewardSet {
    const own = typeof reward === "function" ? { score: reward } : reward;
    if (typeof (own as Partial<Reward> | null)?.score !== "function") {
      throw new RewardError(
        `Expected a function, or an object with a function score, for the reward but received ${show(own)}`,
      );
    }
    return new RewardSet([{ label, name: nameOf(label), weight: 1, role: "train", timeout: null, reward: own }]);
  }

  /**
   * Opens the rewards of a config.
   *
   * @throws InputError if one cannot be opened; those opened before it are disposed of
   */
  static async open(named: readonly WeightedReward[], context: RewardContext): Promise<RewardSet> {
    const members: Member[] = [];
    try {
      for (const entry of named) {
        const kind = rewards.get(entry.name);
        const reward = await kind.open(optionsOf(kind, entry), context);
        const { weight, role = "train", timeout = null } = entry;
        const label = labelOf(entry);
        members.push({ label, name: nameOf(label), weight, role, timeout, reward });
      }
    } catch (error) {
      new RewardSet(members).dispose();
      throw error;
    }
    return new RewardSet(members);
  }

  /**
   * Scores a batch. Rewards that wait for something else are asked first, and answer while the others compute.
   *
   * @param images float32 [B, 3, H, W] in 0..1; the caller disposes of them
   * @throws RewardError naming a reward that does not return one finite number per image, see askReward
   */
  async score(images: Tensor, prompts: string[], { judges = false, ...call }: SetCall = {}): Promise<Scores> {
    this.#queries += prompts.length;
    const members = judges ? this.#members : this.#of("train");
    const parts: Record<string, number[]> = {};
    const seconds: Record<string, number> = {};
    const stop = new AbortController();
    const signal = call.signal === undefined ? stop.signal : AbortSignal.any([call.signal, stop.signal]);
    const ask = async (member: Member): Promise<void> => {
      const start = performance.now();
      parts[member.label] = await askReward(member, images, prompts, { ...call, signal });
      seconds[member.label] = (performance.now() - start) / 1000;
    };
    const waiting = members.filter(({ reward }) => reward.concurrent === true).map(ask);
    try {
      for (const member of members) if (member.reward.concurrent !== true) await ask(member);
      await Promise.all(waiting);
    } catch (error) {
      stop.abort();
      await Promise.allSettled(waiting);
      throw error;
    }
    const total = this.weightedSum(parts, prompts.length);
    checkRewards(total, prompts, "the weighted sum of the rewards");
    const inOrder = <T>(values: Record<string, T>): Record<string, T> =>
      Object.fromEntries(members.map(({ label }) => [label, values[label]!]));
    return { total, parts: inOrder(parts), seconds: inOrder(seconds) };
  }

  /** The sum that is maximised, from each reward by its label. */
  weightedSum(parts: Readonly<Record<string, readonly number[]>>, count: number): number[] {
    const trained = this.#of("train");
    return Array.from({ length: count }, (_, i) =>
      trained.map(({ label, weight }) => weight * parts[label]![i]!).reduce((sum, x) => sum + x),
    );
  }

  /**
   * Says that a stage, or a list of an evaluation, is scored.
   *
   * @throws RewardError of a reward whose scores are not there yet, because a person gives them
   */
  async complete({ judges = false } = {}): Promise<void> {
    for (const { reward } of judges ? this.#members : this.#of("train")) await reward.complete?.();
  }

  dispose(): void {
    for (const { reward } of this.#members) reward.dispose?.();
  }

  #of(role: RewardRole): readonly Member[] {
    return this.#members.filter((member) => member.role === role);
  }
}
