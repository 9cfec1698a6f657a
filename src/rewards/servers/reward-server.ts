/**
 * A server that rewards ask: POST requests, so many at a time, each with a time limit, and repeated while there is hope.
 * Redirects are not followed, so that images and keys go nowhere else.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Dispatcher, Response } from "undici";
import { InputError, Interrupted } from "../../base/errors.js";
import { secondsToWait } from "../../base/retry-after.js";
import { RewardError } from "../error.js";
import { Failure } from "./failure.js";
import { readBody, wordsOf } from "./read-body.js";
import { headersOf, serverProblems, type ServerOptions } from "./server-options.js";
import { Slots } from "./slots.js";

/** Larger answers are refused: scores of some images take a thousandth of that. */
const MOST_BYTES = 2 ** 24;

/** The longest time in seconds that a server can ask to wait; one that asks for more counts as away. */
const PATIENCE = 300;

/** The waits between attempts in milliseconds: the first, and the longest. */
export interface BackOff {
  readonly first: number;
  readonly longest: number;
}

const USUAL_BACK_OFF: BackOff = { first: 1000, longest: 60_000 };

/** A request, and how its answer is read. */
export interface Question<T> {
  /** Made when it is sent: bodies with images are large. */
  readonly body: () => string | Uint8Array<ArrayBuffer>;
  readonly contentType: string;
  /** What follows the server's URL, such as `/chat/completions`. */
  readonly path?: string;
  /** @throws Failure for an answer that cannot be used */
  readonly read: (answer: Buffer) => T;
  /** Told what a server says with status 400 or 422. @returns whether `body` gives another one now, to be sent at once */
  readonly mend?: (words: string) => boolean;
}

export class RewardServer {
  readonly #options: ServerOptions;
  readonly #backOff: BackOff;
  readonly #slots: Slots;
  #dispatcher: Promise<Dispatcher> | undefined;

  /** @throws RewardError when a named environment variable is not set */
  constructor(options: ServerOptions, { backOff = USUAL_BACK_OFF }: { readonly backOff?: BackOff } = {}) {
    const [problem] = serverProblems(options);
    if (problem !== undefined) throw new RewardError(problem);
    this.#options = options;
    this.#backOff = backOff;
    this.#slots = new Slots(options.concurrency);
  }

  /**
   * Asks, and asks again after failures that may pass: no connection, no answer in time, a cut one, status 408, 429 or
   * 5xx, or an answer that `read` refuses.
   *
   * @param signal stops at once
   * @throws RewardError that names the URL and says what came last; Interrupted or the signal's own InputError
   */
  post<T>(question: Question<T>, signal?: AbortSignal): Promise<T> {
    return this.#slots.run(() => this.#untilAnswered(question, signal));
  }

  /** Closes all connections. */
  dispose(): void {
    void this.#dispatcher?.then((dispatcher) => dispatcher.destroy());
    this.#dispatcher = undefined;
  }

  async #untilAnswered<T>(question: Question<T>, signal: AbortSignal | undefined): Promise<T> {
    const start = performance.now();
    for (let attempts = 1; ; attempts++) {
      throwIfAborted(signal);
      try {
        return question.read(await this.#attempt(question, signal));
      } catch (error) {
        throwIfAborted(signal);
        if (!(error instanceof Failure)) throw error;
        if ([400, 422].includes(error.status ?? 0) && question.mend?.(error.received) === true) {
          attempts--;
          continue;
        }
        const delay = this.#delayAfter(error, attempts);
        if (delay === undefined) throw this.#final(error, question, attempts, performance.now() - start);
        await sleep(delay, undefined, signal && { signal }).catch(() => throwIfAborted(signal));
      }
    }
  }

  /** One request. @throws Failure */
  async #attempt({ path, body, contentType }: Question<unknown>, signal: AbortSignal | undefined): Promise<Buffer> {
    const { fetch } = await import("undici");
    const { requestTimeout } = this.#options;
    const limit = timeLimit(requestTimeout, signal);
    try {
      const response = await fetch(urlOf(this.#options.url, path), {
        method: "POST",
        headers: { ...headersOf(this.#options), "content-type": contentType },
        body: body(),
        redirect: "manual",
        dispatcher: await (this.#dispatcher ??= dispatcherFor(this.#options.url)),
        signal: limit.signal,
      });
      if (!response.ok) throw await refusal(response);
      return await readBody(response, MOST_BYTES);
    } catch (error) {
      if (error instanceof Failure) throw error;
      if (limit.isOver()) throw new Failure("an answer", `none within ${requestTimeout} seconds`);
      throw new Failure("an answer", networkError(error));
    } finally {
      limit.end();
    }
  }

  /** Milliseconds until the next attempt: as the server asks, else doubling, of which a random half to all. */
  #delayAfter({ again }: Failure, attempts: number): number | undefined {
    if (!again.useful || attempts > this.#options.retries || (again.seconds ?? 0) > PATIENCE) return undefined;
    if (again.seconds !== undefined) return 1000 * again.seconds;
    const { first, longest } = this.#backOff;
    return Math.min(longest, first * 2 ** (attempts - 1)) * (0.5 + Math.random() / 2);
  }

  #final(failure: Failure, { path }: Question<unknown>, attempts: number, ms: number): RewardError {
    const { expected, received, again } = failure;
    const { origin, pathname } = new URL(urlOf(this.#options.url, path)); // without a query, which may hold a key
    const tried = attempts === 1 ? "" : `, asked ${attempts} times in ${(ms / 1000).toFixed(1)} seconds,`;
    const waits =
      again.seconds !== undefined && again.seconds > PATIENCE ? `; it asks to wait ${again.seconds} seconds` : "";
    const sentence = `Expected ${expected} from ${origin}${pathname}${tried} but received ${received}${waits}`;
    return new RewardError(this.#withoutSecrets(sentence), { cause: failure });
  }

  /** Servers may repeat what they were sent. */
  #withoutSecrets(sentence: string): string {
    const secrets = Object.values(headersOf(this.#options)).map((value) => value.replace(/^Bearer /, ""));
    return secrets.reduce((text, secret) => (secret === "" ? text : text.replaceAll(secret, "***")), sentence);
  }
}

/** @throws Interrupted, or the InputError that the signal was aborted with */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw signal.reason instanceof InputError ? signal.reason : new Interrupted();
}

/** The server's URL with more at the end of its path. */
function urlOf(server: string, path = ""): string {
  const url = new URL(server);
  if (path !== "") url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}

/** Honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY as for the hub, but a server on this machine is asked directly. */
async function dispatcherFor(server: string): Promise<Dispatcher> {
  const { Agent, EnvHttpProxyAgent } = await import("undici");
  const isLocal = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(new URL(server).hostname);
  // The time limit of the request is the only one.
  const limits = { headersTimeout: 0, bodyTimeout: 0 };
  return isLocal ? new Agent(limits) : new EnvHttpProxyAgent(limits);
}

/** A signal that aborts with another, or after so many seconds. */
function timeLimit(
  seconds: number,
  outer: AbortSignal | undefined,
): { readonly signal: AbortSignal; readonly isOver: () => boolean; readonly end: () => void } {
  const controller = new AbortController();
  let over = false;
  const timer = setTimeout(() => {
    over = true;
    controller.abort();
  }, 1000 * seconds);
  const abort = (): void => controller.abort();
  if (outer?.aborted) abort();
  outer?.addEventListener("abort", abort, { once: true });
  return {
    signal: controller.signal,
    isOver: () => over,
    end: () => {
      clearTimeout(timer);
      outer?.removeEventListener("abort", abort);
    },
  };
}

/** What a status other than 2xx means. */
async function refusal(response: Response): Promise<Failure> {
  const { status, headers } = response;
  const location = headers.get("location");
  const words = location === null ? await wordsOf(response) : `a redirect to ${location}, which is not followed`;
  if (location !== null) await response.body?.cancel();
  const useful = status === 408 || status === 429 || status >= 500;
  const received = `status ${status}${words === "" ? "" : `: ${words}`}`;
  return new Failure("an answer", received, { useful, seconds: useful ? secondsToWait(headers) : undefined }, status);
}

const NETWORK_ERRORS: Readonly<Record<string, string>> = {
  ECONNREFUSED: "no connection: nothing listens there",
  ECONNRESET: "a connection that was cut",
  UND_ERR_SOCKET: "a connection that was cut",
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: "half an answer",
  ENOTFOUND: "no connection: there is no such host",
  EAI_AGAIN: "no connection: the name of the host cannot be looked up now",
  UND_ERR_CONNECT_TIMEOUT: "no connection within the time limit",
};

/** What undici's errors mean; it has the cause in `cause`. */
function networkError(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const { code, message } = cause as NodeJS.ErrnoException;
  return (code === undefined ? undefined : NETWORK_ERRORS[code]) ?? `a network error: ${message ?? String(error)}`;
}
