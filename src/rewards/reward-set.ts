/**
 * The rewards of a run: each is scored on its own, and training maximises their weighted sum. Rewards are not
 * normalised before the sum, so weights must account for their scales.
 */
import { optionsOf, type Named } from "../base/registry.js";
import { show } from "../base/show.js";
import type { Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";
import { checkRewards, rewards, type Reward, type RewardContext, type RewardFunction } from "./reward.js";

/** A reward as a config names it, with its weight and label. */
export type WeightedReward = Named & {
  readonly weight: number;
  /** Its name in tables and metrics; null for the reward's own name. */
  readonly label: string | null;
};

/** Rewards of a batch of images. */
export interface Scores {
  /** The weighted sum, one per image. */
  readonly total: readonly number[];
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds. */
  readonly seconds: Readonly<Record<string, number>>;
}

interface Member {
  readonly label: string;
  readonly weight: number;
  readonly reward: Reward;
}

/** The name of a reward in tables and metrics. */
export function labelOf(named: WeightedReward): string {
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

  /** The labels, in the config's order. */
  get labels(): string[] {
    return this.#members.map(({ label }) => label);
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
    return new RewardSet([{ label, weight: 1, reward: own }]);
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
        members.push({ label: labelOf(entry), weight: entry.weight, reward });
      }
    } catch (error) {
      new RewardSet(members).dispose();
      throw error;
    }
    return new RewardSet(members);
  }

  /**
   * Scores a batch.
   *
   * @param images float32 [B, 3, H, W] in 0..1; the caller disposes of them
   * @throws RewardError naming a reward that does not return one finite number per image
   */
  async score(images: Tensor, prompts: string[]): Promise<Scores> {
    this.#queries += prompts.length;
    const parts: Record<string, number[]> = {};
    const seconds: Record<string, number> = {};
    for (const { label, reward } of this.#members) {
      const start = performance.now();
      parts[label] = checkRewards(await ask(reward, images, prompts, nameOf(label)), prompts, nameOf(label));
      seconds[label] = (performance.now() - start) / 1000;
    }
    const total = prompts.map((_, i) =>
      this.#members.map(({ label, weight }) => weight * parts[label]![i]!).reduce((sum, x) => sum + x),
    );
    checkRewards(total, prompts, "the weighted sum of the rewards");
    return { total, parts, seconds };
  }

  dispose(): void {
    for (const { reward } of this.#members) reward.dispose?.();
  }
}

/**
 * What a reward answers. Rewards are the user's own code, or a server's answer: what goes wrong beside an exception, which
 * keeps its stack, is told with the reward's name.
 *
 * @throws RewardError where it throws nothing, disposes of the images, or can never answer
 */
async function ask(reward: Reward, images: Tensor, prompts: string[], name: string): Promise<unknown> {
  // Node ends a process without a word when a promise is left that nothing can settle.
  let onIdle = (): void => undefined;
  const never = new Promise<never>((_, reject) => {
    onIdle = () =>
      reject(
        new RewardError(`Expected an answer from ${name} but received a promise that nothing can settle any more`),
      );
  });
  process.once("beforeExit", onIdle);
  try {
    const answer = await Promise.race([reward.score(images, prompts), never]);
    if (images.disposed) throw new RewardError(`Expected ${name} to leave the images alone but it disposed of them`);
    return answer;
  } catch (error) {
    if (error instanceof Error) throw error;
    throw new RewardError(`Expected an answer from ${name} but it threw ${show(error)}`, { cause: error });
  } finally {
    process.off("beforeExit", onIdle);
  }
}
