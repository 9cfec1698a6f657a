/** HTTP requests to the hub: redirects, what its errors mean, and how long to wait before a retry. */
import type { EnvHttpProxyAgent, Response } from "undici";
import { secondsToWait } from "../base/retry-after.js";
import { show } from "../base/show.js";
import { downloadTimeout } from "./environment.js";
import { HubBusyError, HubError, NoRevisionError } from "./error.js";

const REDIRECTS = 5;
/** Attempts at a request that fails for a temporary reason. */
const ATTEMPTS = 6;
/** The longest wait in seconds; if the hub asks for more, its error is reported instead. */
const PATIENCE = 60;

export interface RequestOptions {
  readonly token: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY, which the fetch of Node 20 ignores. */
let dispatcher: EnvHttpProxyAgent | undefined;

/** Sends a GET request. Follows redirects by hand, because the token must go to the hub only, not to its file hosts. */
export async function get(url: string, { token, signal, headers }: RequestOptions): Promise<Response> {
  // Loaded only here: it takes as long as all else of Node, and most commands ask nobody.
  const undici = await import("undici");
  dispatcher ??= new undici.EnvHttpProxyAgent();
  const hub = new URL(url);
  let at = hub;
  for (let redirect = 0; redirect <= REDIRECTS; redirect++) {
    const secret = token !== undefined && at.origin === hub.origin && { authorization: `Bearer ${token}` };
    const response = await undici.fetch(at, {
      headers: { ...headers, ...secret },
      redirect: "manual",
      dispatcher,
      ...(signal && { signal }),
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) return response;
    await response.body?.cancel();
    const next = URL.canParse(location, at.href) ? new URL(location, at) : undefined;
    if (next === undefined || !/^https?:$/.test(next.protocol)) {
      throw new HubError(`Expected an answer at ${url} but received a redirect to ${show(location)}`);
    }
    at = next;
  }
  throw new HubError(`Expected an answer at ${url} but received more than ${REDIRECTS} redirects`);
}

/** Bytes of a list at most; a page of a thousand files has some 300,000. */
const MOST_BYTES = 2 ** 26;

/**
 * A response whose body has arrived.
 *
 * @param hear called for each part of it
 * @throws HubError for a body of more than 64 MiB
 */
export async function withBody(response: Response, hear: () => void): Promise<Response> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Leaving the loop early cancels the body.
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    hear();
    length += chunk.length;
    if (length > MOST_BYTES)
      throw new HubError(`Expected at most ${MOST_BYTES} bytes at ${response.url} but received more`);
    chunks.push(chunk);
  }
  const { status, headers } = response;
  const undici = await import("undici");
  return new undici.Response(length === 0 ? null : Buffer.concat(chunks, length), { status, headers });
}

/** A signal that also aborts when no data arrives for `downloadTimeout` seconds; fetch alone waits five minutes. */
export function untilSilent(signal: AbortSignal | undefined): {
  readonly signal: AbortSignal;
  readonly hear: () => void;
  readonly end: () => void;
} {
  const seconds = downloadTimeout();
  const silence = new AbortController();
  const timer = setTimeout(() => silence.abort(new TypeError(`nothing for ${seconds} seconds`)), 1000 * seconds);
  return {
    signal: AbortSignal.any([silence.signal, ...(signal ? [signal] : [])]),
    hear: () => timer.refresh(),
    end: () => clearTimeout(timer),
  };
}

/** The error for an unsuccessful response. The reason is in the hub's headers: the status 401 alone is ambiguous. */
export function httpError({ status, headers }: Response, what: string, revision = ""): HubError {
  const code = headers.get("x-error-code");
  const told = (headers.get("x-error-message") ?? "").slice(0, 300);
  if (status === 429 || status === 408 || status >= 500) {
    const seconds = secondsToWait(headers);
    const when = seconds === undefined ? "" : `; it asks to wait ${seconds} seconds`;
    return new HubBusyError(
      `Expected ${what} from the hub but received status ${status} ${told}`.trim() + when,
      seconds,
    );
  }
  if (code === "RevisionNotFound") {
    return new NoRevisionError(`Expected a revision of ${what} but received ${revision}, which it does not have`);
  }
  if (/invalid credentials/i.test(told)) {
    return new HubError(
      `Expected a valid token for ${what} but the hub refuses the one of HF_TOKEN or \`hf auth login\`: it is mistyped, ` +
        "expired or revoked. Public models need no token",
    );
  }
  if (code === "GatedRepo") {
    return new HubError(
      `Expected access to ${what} but the hub refuses it: it is gated. Accept its licence on its page and set HF_TOKEN ` +
        "to a token that may read it",
    );
  }
  if (code === "RepoNotFound" || status === 401 || status === 403) {
    return new HubError(
      `Expected access to ${what} but the hub refuses it: it is misspelt, private or gated. If it is not misspelt, ` +
        "set HF_TOKEN to a token that may read it",
    );
  }
  if (status === 404) return new HubError(`Expected ${what} on the hub but received: not found`);
  return new HubError(`Expected ${what} from the hub but received status ${status} ${told}`.trim());
}

/** Milliseconds to wait after a first failure. */
export const FIRST_DELAY = 500;

/**
 * The milliseconds to wait before the next attempt: as the hub asks, or doubling with each failure.
 *
 * @param failures in a row
 * @param first the wait after the first of them
 * @returns undefined if it should not be retried
 */
export function delayAfter(error: unknown, failures: number, first = FIRST_DELAY): number | undefined {
  const passes = error instanceof HubBusyError || !(error instanceof HubError);
  const asked = error instanceof HubBusyError ? error.seconds : undefined;
  if (!passes || failures >= ATTEMPTS || (asked ?? 0) > PATIENCE) return undefined;
  return asked === undefined ? first * 2 ** (failures - 1) : 1000 * asked;
}
