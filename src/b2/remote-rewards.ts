/** The rewards of a worker that trains, which reward ranks have open (reward-rank.ts). Images go there as they were decoded. */
import { InputError, Interrupted } from "../base/errors.js";
import { alone, receiveAnswer, sendRequest, type RewardRanks, type WithWorkers } from "../distributed/index.js";
import {
  RewardError,
  RewardSet,
  type RewardAnswers,
  type RewardResources,
  type SetAnswer,
  type SetCall,
} from "../rewards/index.js";
import type { Tensor } from "../torch/index.js";
import type { Config } from "./config/schema.js";

/** What a reward rank is asked. */
export type RewardQuestion =
  | { readonly kind: "traits" }
  | { readonly kind: "score"; readonly prompts: readonly string[]; readonly call: Omit<SetCall, "signal"> }
  | { readonly kind: "complete"; readonly judges: boolean }
  /** Nothing is left to score. */
  | { readonly kind: "end" };

/** What it answers. */
export type RewardReply<T> = { readonly result: T } | { readonly error: string; readonly cause: string | undefined };

/** What is to be known of rewards before they are asked. */
export type RewardTraits = Pick<RewardAnswers, "concurrent" | "isFinal" | "needsAll">;

export class RemoteRewards implements RewardAnswers {
  readonly concurrent: boolean;
  readonly isFinal: boolean;
  readonly needsAll: boolean;
  readonly #asker: Asker;

  private constructor(asker: Asker, { concurrent, isFinal, needsAll }: RewardTraits) {
    this.concurrent = concurrent;
    this.isFinal = isFinal;
    this.needsAll = needsAll;
    this.#asker = asker;
  }

  /**
   * Waits until this worker's reward ranks have opened their rewards.
   *
   * @throws WorkerError where one could not; InputError for several of them and a reward that has to see all images
   */
  static async open(ranks: RewardRanks): Promise<RemoteRewards> {
    const asker = new Asker(ranks);
    const all = await Promise.all(ranks.own.map((rank) => asker.ask<RewardTraits>(rank, { kind: "traits" })));
    const traits = all[0]!;
    if (traits.needsAll && ranks.ranks.length > 1) {
      throw new InputError(
        `Expected --reward-ranks 1 for a reward that has to see all images of a stage, such as people, but received ${ranks.ranks.length}`,
      );
    }
    return new RemoteRewards(asker, traits);
  }

  /** One batch for each reward rank: the next one is decoded meanwhile. */
  get ahead(): number {
    return this.#asker.ranks.length;
  }

  async score(images: Tensor, prompts: string[], { signal, ...call }: SetCall): Promise<SetAnswer> {
    const question = { kind: "score", prompts, call } as const;
    return this.#asker.ask<SetAnswer>(this.#asker.idlest, question, { images, signal });
  }

  /** Asks the first one: where rewards have to see all images, it is the only one. */
  async complete({ judges }: { readonly judges: boolean }): Promise<void> {
    if (this.needsAll) await this.#asker.ask(this.#asker.ranks[0]!, { kind: "complete", judges });
  }

  dispose(): void {
    // They are not open here.
  }
}

/** The rewards of a config: of this process, or of those that score for it. @throws InputError */
export async function openRewards(
  config: Config,
  resources: RewardResources,
  { workers = alone, rewardRanks }: WithWorkers,
): Promise<RewardSet> {
  if (rewardRanks !== undefined) return RewardSet.elsewhere(config.rewards, await RemoteRewards.open(rewardRanks));
  const rewards = await RewardSet.open(config.rewards, resources);
  if (!rewards.needsAll || workers.size === 1) return rewards;
  rewards.dispose();
  throw new InputError(
    `Expected one worker, or --reward-ranks 1, for a reward that has to see all images of a stage, such as people, but received ${workers.size} workers that each score a part`,
  );
}

/** Tells all reward ranks that nothing is left to score. By rank 0, when all workers that train are done. */
export async function endRewardRanks(rewardRanks: RewardRanks): Promise<void> {
  const asker = new Asker(rewardRanks, LAST);
  await Promise.all(rewardRanks.ranks.map((rank) => asker.ask(rank, { kind: "end" })));
}

/** The number of a last question, which is no other's. */
const LAST = 2 ** 30;

/** Asks reward ranks, several questions at a time. */
class Asker {
  readonly ranks: readonly number[];
  readonly #all: RewardRanks["all"];
  readonly #pending = new Map<number, number>();
  #number: number;

  constructor({ all, own }: RewardRanks, number = 0) {
    this.#all = all;
    this.ranks = own;
    this.#number = number;
  }

  /** The rank that has least to do. */
  get idlest(): number {
    const load = (rank: number): number => this.#pending.get(rank) ?? 0;
    return this.ranks.reduce((least, rank) => (load(rank) < load(least) ? rank : least));
  }

  /** @throws RewardError that the reward rank says; Interrupted when the signal aborts; WorkerError when it is lost */
  async ask<T>(
    rank: number,
    question: RewardQuestion,
    { images, signal }: { readonly images?: Tensor; readonly signal?: AbortSignal | undefined } = {},
  ): Promise<T> {
    this.#number += 1;
    const number = this.#number;
    this.#count(rank, 1);
    try {
      const sent = sendRequest(this.#all, rank, number, question, images);
      const answered = Promise.all([receiveAnswer<RewardReply<T>>(this.#all, rank, number), sent]);
      const [reply] = await untilAborted(answered, signal);
      if ("result" in reply) return reply.result;
      throw new RewardError(reply.error, { cause: reply.cause });
    } finally {
      this.#count(rank, -1);
    }
  }

  #count(rank: number, change: 1 | -1): void {
    this.#pending.set(rank, (this.#pending.get(rank) ?? 0) + change);
  }
}

/** The promise's result. @throws Interrupted when the signal aborts before it is there */
export async function untilAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  promise.catch(() => undefined);
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(new Interrupted());
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
