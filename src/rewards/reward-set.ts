/**
 * The rewards of a run: each is scored on its own. Those that train make up the weighted sum that is maximised; judges are
 * asked in evaluations only, to see whether the sum rises for the right reasons.
 */
import { optionsOf, type Named } from "../base/registry.js";
import { show } from "../base/show.js";
import type { Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";
import { OpenRewards, type Member, type RewardAnswers, type RewardRole, type SetCall } from "./open-rewards.js";
import { checkRewards, rewards, type Reward, type RewardContext, type RewardFunction } from "./reward.js";

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

/** A reward of a set, wherever it is open. */
type Rated = Pick<Member, "label" | "weight" | "role">;

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
  readonly #members: readonly Rated[];
  readonly #answers: RewardAnswers;
  #queries = 0;

  private constructor(members: readonly Rated[], answers: RewardAnswers) {
    this.#members = members;
    this.#answers = answers;
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

  /** Whether a reward that trains waits for something else than libtorch, so that other work can be done meanwhile. */
  get concurrent(): boolean {
    return this.#answers.concurrent;
  }

  /** How many batches may wait for their rewards while the next one is decoded. */
  get ahead(): number {
    return this.#answers.ahead;
  }

  /** Whether scores of a batch stand by themselves: they do not where a reward may say at the end that some are missing. */
  get isFinal(): boolean {
    return this.#answers.isFinal;
  }

  /** Whether a reward, a judge too, has to see all images of a stage or of an evaluation's list. */
  get needsAll(): boolean {
    return this.#answers.needsAll;
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
    return RewardSet.#here([{ label, name: nameOf(label), weight: 1, role: "train", timeout: null, reward: own }]);
  }

  /** The rewards of a config, which another process has opened. @param answers disposed of with the set */
  static elsewhere(named: readonly WeightedReward[], answers: RewardAnswers): RewardSet {
    const members = named.map((entry) => {
      const { weight, role = "train" } = entry;
      return { label: labelOf(entry), weight, role };
    });
    return new RewardSet(members, answers);
  }

  static #here(members: readonly Member[]): RewardSet {
    return new RewardSet(members, new OpenRewards(members));
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
      RewardSet.#here(members).dispose();
      throw error;
    }
    return RewardSet.#here(members);
  }

  /**
   * Scores a batch. Rewards that wait for something else are asked first, and answer while the others compute.
   *
   * @param images float32 [B, 3, H, W] in 0..1; the caller disposes of them
   * @throws RewardError naming a reward that does not return one finite number per image, see askReward
   */
  async score(images: Tensor, prompts: string[], call: SetCall = {}): Promise<Scores> {
    this.#queries += prompts.length;
    const { parts, seconds } = await this.#answers.score(images, prompts, call);
    const total = this.weightedSum(parts, prompts.length);
    checkRewards(total, prompts, "the weighted sum of the rewards");
    return { total, parts, seconds };
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
  complete({ judges = false } = {}): Promise<void> {
    return this.#answers.complete({ judges });
  }

  dispose(): void {
    this.#answers.dispose();
  }

  #of(role: RewardRole): readonly Rated[] {
    return this.#members.filter((member) => member.role === role);
  }
}
