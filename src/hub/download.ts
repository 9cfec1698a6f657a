/**
 * One file from the hub into the cache: what an earlier attempt got is kept and only the rest is asked for; nothing is
 * put in place before its size and, where the hub tells it, its SHA-256 are right.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { HubFile } from "./cache.js";
import { HubError } from "./error.js";

export interface DownloadOptions {
  readonly token: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** Bytes that are there: those of an earlier attempt first, then as they come. */
  readonly onBytes: (bytes: number) => void;
}

/** How often a connection that breaks is taken up again before it counts as a failure. */
const ATTEMPTS = 5;
const REDIRECTS = 5;

/**
 * Downloads a file to `target`, unless it is there.
 *
 * @param url of the file's content
 * @throws HubError when it cannot be had or is not what the hub says it is; a part stays for the next attempt
 */
export async function downloadFile(
  url: string,
  file: HubFile,
  target: string,
  options: DownloadOptions,
): Promise<void> {
  mkdirSync(dirname(target), { recursive: true });
  const unlock = await lock(`${target}.lock`, options.signal);
  try {
    if (existsSync(target)) return options.onBytes(file.size); // another process was quicker
    const part = `${target}.incomplete`;
    await fillPart(url, file, part, options);
    await checkContent(part, file);
    renameSync(part, target);
  } finally {
    unlock();
  }
}

async function fillPart(url: string, file: HubFile, part: string, options: DownloadOptions): Promise<void> {
  const sizeOf = (): number => (existsSync(part) ? statSync(part).size : 0);
  if (sizeOf() > file.size) rmSync(part);
  options.onBytes(sizeOf());
  for (let attempt = 1; sizeOf() < file.size; attempt++) {
    const before = sizeOf();
    try {
      await append(url, file, part, options);
    } catch (error) {
      if (error instanceof HubError || options.signal?.aborted) throw error;
      if (sizeOf() > before) attempt = 0; // it goes on, if in pieces
      if (attempt >= ATTEMPTS) {
        const cause = error instanceof Error ? (error.cause instanceof Error ? error.cause : error) : undefined;
        throw (
          diskFull(error) ??
          new HubError(
            `Expected ${file.path} from ${new URL(url).host} but received ${cause?.message ?? String(error)}; ` +
              `${sizeOf()} of ${file.size} bytes are kept for the next attempt`,
            { cause: error },
          )
        );
      }
      const full = diskFull(error);
      if (full !== undefined) throw full;
      await sleep(200 * attempt, undefined, options.signal && { signal: options.signal });
    }
  }
  if (file.size === 0) closeSync(openSync(part, "a"));
}

/** Asks for what is missing of a part and appends it. */
async function append(
  url: string,
  file: HubFile,
  part: string,
  { token, signal, onBytes }: DownloadOptions,
): Promise<void> {
  let have = existsSync(part) ? statSync(part).size : 0;
  const response = await get(url, { ...(have > 0 && { range: `bytes=${have}-` }), ...authorization(token) }, signal);
  if (response.status === 416) {
    rmSync(part);
    throw new Error("the server has less than the part that is here");
  }
  if (!response.ok) throw httpError(response, file.path);
  if (have > 0 && response.status !== 206) {
    // A server that knows no ranges sends all of it.
    onBytes(-have);
    have = 0;
  }
  const out = openSync(part, have > 0 ? "a" : "w");
  try {
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      for (let done = 0; done < chunk.length;) done += writeSync(out, chunk, done);
      have += chunk.length;
      onBytes(chunk.length);
    }
    fsyncSync(out);
  } finally {
    closeSync(out);
  }
  if (have < file.size) throw new Error("the connection ended early");
}

/** Follows redirects by hand: the token is for the hub, not for where it keeps its files. */
async function get(url: string, headers: Record<string, string>, signal: AbortSignal | undefined): Promise<Response> {
  let at = new URL(url);
  for (let redirect = 0; redirect <= REDIRECTS; redirect++) {
    const own = at.origin === new URL(url).origin ? headers : withoutAuthorization(headers);
    const response = await fetch(at, { headers: own, redirect: "manual", ...(signal && { signal }) });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) return response;
    await response.body?.cancel();
    at = new URL(location, at);
  }
  throw new HubError(`Expected a file at ${url} but received more than ${REDIRECTS} redirects`);
}

export const authorization = (token: string | undefined): Record<string, string> =>
  token === undefined ? {} : { authorization: `Bearer ${token}` };

function withoutAuthorization(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name !== "authorization"));
}

/** What an answer of the hub that is no success means. */
export function httpError({ status, headers }: Pick<Response, "status" | "headers">, what: string): Error {
  const code = headers.get("x-error-code");
  if (status === 401 || status === 403 || code === "GatedRepo") return new HubError(noAccess(what));
  if (status === 404) return new HubError(`Expected ${what} on the hub but received: not found`);
  const told = headers.get("x-error-message") ?? "";
  // Overload passes; what else a server may say does not.
  const Kind = status === 429 || status >= 500 ? Error : HubError;
  return new Kind(`Expected ${what} from the hub but received status ${status} ${told}`.trim());
}

export const noAccess = (what: string): string =>
  `Expected access to ${what} but the hub refuses it: it is private, gated or misspelt. Accept its licence on its page ` +
  "and set HF_TOKEN to a token of yours that may read it";

async function checkContent(part: string, { path, size, sha256 }: HubFile): Promise<void> {
  const received = statSync(part).size;
  if (received !== size) {
    rmSync(part);
    throw new HubError(`Expected ${size} bytes for ${path} but received ${received}; they were thrown away`);
  }
  if (sha256 === undefined) return;
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(part)) hash.update(chunk as Buffer);
  const digest = hash.digest("hex");
  if (digest !== sha256) {
    rmSync(part);
    throw new HubError(`Expected SHA-256 ${sha256} for ${path} but received ${digest}; it was thrown away`);
  }
}

function diskFull(error: unknown): HubError | undefined {
  if ((error as NodeJS.ErrnoException).code !== "ENOSPC") return undefined;
  return new HubError("Expected room for the download in the hub's cache but the disk is full", { cause: error });
}

/** Waits until no living process has the file, then takes it. Returns what gives it back. */
async function lock(file: string, signal: AbortSignal | undefined): Promise<() => void> {
  for (;;) {
    try {
      const fd = openSync(file, "wx");
      writeSync(fd, String(process.pid));
      closeSync(fd);
      return () => rmSync(file, { force: true });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      if (!isHeld(file)) rmSync(file, { force: true });
      else await sleep(100, undefined, signal && { signal });
    }
  }
}

function isHeld(file: string): boolean {
  try {
    const holder = Number(readFileSync(file, "utf8"));
    if (holder === process.pid) return true;
    process.kill(holder, 0);
    return holder > 0;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
