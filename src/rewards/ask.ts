/**
 * Asks one reward. Rewards are the user's own code, a server or a person: whatever goes wrong becomes one sentence that
 * names the reward, the prompt and the image.
 */
import { InputError, Interrupted } from "../base/errors.js";
import { ifProcessEnds } from "../base/process-end.js";
import { show } from "../base/show.js";
import type { Tensor } from "../torch/index.js";
import { AnswerError, RewardError } from "./error.js";
import { checkRewards, type Reward, type ScoringCall } from "./reward.js";

/** A reward with what is to be known when it is asked. */
export interface Asked {
  /** As errors name it: "the reward clip-score". */
  readonly name: string;
  readonly reward: Reward;
  /** Seconds for a batch; null: it may take as long as it likes. */
  readonly timeout: number | null;
}

/** An image as errors name it: its prompt, and which of the prompt's images it is. */
function imageName(prompts: readonly string[], { keys }: ScoringCall, i: number): string {
  const key = keys?.[i];
  const place = key === undefined ? "" : ` (${key.group}, image ${key.index})`;
  return `image ${i}, ${JSON.stringify(prompts[i])}${place}`;
}

/** A batch as errors name it. */
const batchName = (prompts: readonly string[], call: ScoringCall): string =>
  prompts.length === 1 ? imageName(prompts, call, 0) : `${prompts.length} images from ${imageName(prompts, call, 0)}`;

/**
 * The scores of a batch.
 *
 * @throws RewardError where the reward throws, disposes of the images, answers too late, never, or anything but one
 *   finite number for each image; Interrupted when the call's signal aborts
 */
export async function askReward(
  { name, reward, timeout }: Asked,
  images: Tensor,
  prompts: string[],
  call: ScoringCall,
): Promise<number[]> {
  const batch = batchName(prompts, call);
  const over = new AbortController();
  const signal = call.signal === undefined ? over.signal : AbortSignal.any([call.signal, over.signal]);
  const fate = new Fate(call.signal);
  const done = ifProcessEnds(() => `Expected an answer from ${name} for ${batch} but it ended the process`);
  const tooLate = (seconds: number): AnswerError =>
    new AnswerError(
      `Expected an answer from ${name} for ${batch} but received none in ${seconds} seconds (its option timeout)`,
    );
  const timer = timeout === null ? undefined : setTimeout(() => fate.reject(tooLate(timeout)), timeout * 1000);
  // A process that has nothing else to wait for shall find out at once, not when the time is over.
  timer?.unref();
  try {
    const never = `Expected an answer from ${name} for ${batch} but received a promise that nothing can settle any more`;
    fate.onIdle(() => new AnswerError(never));
    const answer = await Promise.race([called(reward, images, prompts, { ...call, signal }), fate.promise]);
    if (images.disposed) throw new AnswerError(`Expected ${name} to leave the images alone but it disposed of them`);
    return checkRewards(answer, prompts, name, (i) => imageName(prompts, call, i));
  } catch (error) {
    if (error instanceof AnswerError) throw error;
    if (error instanceof Interrupted || call.signal?.aborted === true) throw new Interrupted();
    throw new RewardError(failure(error, name, batch), { cause: error });
  } finally {
    clearTimeout(timer);
    fate.over();
    done();
    over.abort();
  }
}

/** What a reward threw, in a sentence; a bug's stack is a cause, which --debug prints. */
function failure(error: unknown, name: string, batch: string): string {
  if (error instanceof InputError) return `For ${batch}, ${name} says: ${error.message}`;
  const thrown = error instanceof Error ? `${error.name}: ${error.message} (--debug says where)` : show(error);
  return `Expected an answer from ${name} for ${batch} but it threw ${thrown}`;
}

/** Calls a reward; what it throws at once, and what it throws when nobody listens any more, is a rejection like others. */
function called(reward: Reward, images: Tensor, prompts: string[], call: ScoringCall): Promise<unknown> {
  const answer = (async () => reward.score(images, prompts, call))();
  answer.catch(() => undefined);
  return answer;
}

/** What can end the waiting for an answer from outside: an interruption, time, and a process that has nothing left to do. */
class Fate {
  readonly promise: Promise<never>;
  reject: (reason: Error) => void = () => undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = (): void => this.reject(new Interrupted());
  #onIdle = (): void => undefined;

  constructor(signal: AbortSignal | undefined) {
    this.promise = new Promise<never>((_, reject) => (this.reject = reject));
    this.promise.catch(() => undefined);
    this.#signal = signal;
    if (signal?.aborted === true) this.#onAbort();
    else signal?.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** Node ends a process without a word when a promise is left that nothing can settle. */
  onIdle(reason: () => Error): void {
    this.#onIdle = () => this.reject(reason());
    process.once("beforeExit", this.#onIdle);
  }

  over(): void {
    process.off("beforeExit", this.#onIdle);
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }
}
