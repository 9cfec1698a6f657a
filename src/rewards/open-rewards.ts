/** The rewards of a set where they are open: they are asked in turn, and those that wait for something else side by side. */
import type { Tensor } from "../torch/index.js";
import { askReward, type Asked } from "./ask.js";
import type { ScoringCall } from "./reward.js";

/** What a reward is for. */
export type RewardRole = "train" | "judge";

/** An open reward of a set. */
export interface Member extends Asked {
  readonly label: string;
  readonly weight: number;
  readonly role: RewardRole;
}

/** What is asked of a set. */
export interface SetCall extends ScoringCall {
  /** Whether judges are asked too. Default: no. */
  readonly judges?: boolean;
}

/** What the rewards of a set say of a batch. */
export interface SetAnswer {
  /** Each reward by its label, unweighted. */
  readonly parts: Readonly<Record<string, readonly number[]>>;
  /** Wall time of each reward, in seconds. */
  readonly seconds: Readonly<Record<string, number>>;
}

/** The rewards of a set, in this process or another; see RewardSet for what is not said here. */
export interface RewardAnswers {
  readonly concurrent: boolean;
  readonly ahead: number;
  readonly isFinal: boolean;
  readonly needsAll: boolean;
  score(images: Tensor, prompts: string[], call: SetCall): Promise<SetAnswer>;
  complete(what: { readonly judges: boolean }): Promise<void>;
  dispose(): void;
}

/** Rewards of this process. */
export class OpenRewards implements RewardAnswers {
  readonly #members: readonly Member[];

  constructor(members: readonly Member[]) {
    this.#members = members;
  }

  get concurrent(): boolean {
    return this.#asked(false).some(({ reward }) => reward.concurrent === true);
  }

  get ahead(): number {
    return this.concurrent ? 1 : 0;
  }

  get isFinal(): boolean {
    return this.#asked(false).every(({ reward }) => reward.complete === undefined);
  }

  get needsAll(): boolean {
    return this.#members.some(({ reward }) => reward.complete !== undefined);
  }

  async score(images: Tensor, prompts: string[], { judges = false, ...call }: SetCall): Promise<SetAnswer> {
    const members = this.#asked(judges);
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
    const inOrder = <T>(values: Record<string, T>): Record<string, T> =>
      Object.fromEntries(members.map(({ label }) => [label, values[label]!]));
    return { parts: inOrder(parts), seconds: inOrder(seconds) };
  }

  async complete({ judges }: { readonly judges: boolean }): Promise<void> {
    for (const { reward } of this.#asked(judges)) await reward.complete?.();
  }

  dispose(): void {
    for (const { reward } of this.#members) reward.dispose?.();
  }

  #asked(judges: boolean): readonly Member[] {
    return judges ? this.#members : this.#members.filter(({ role }) => role === "train");
  }
}
