/**
 * Downloads one file from the hub into the cache. A partial download is resumed. The file is put in place only once its
 * size is right, and its SHA-256 if the hub gives one.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  existsSync,
  fsyncSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { makeFolder } from "../base/files.js";
import { lock } from "../base/lock.js";
import type { HubFile } from "./cache.js";
import { HubError } from "./error.js";
import { delayAfter, get, httpError, untilSilent } from "./http.js";

export interface DownloadOptions {
  /** Named in errors. */
  readonly repository: string;
  readonly token: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** Milliseconds to wait after a first failure; see delayAfter. */
  readonly firstDelay?: number | undefined;
  /** Called with the bytes of an earlier attempt first, then as more arrive; negative when some are discarded. */
  readonly onBytes: (bytes: number) => void;
}

/**
 * Downloads a file to `target`, unless it exists.
 *
 * @param url of the file's content
 * @throws HubError when it cannot be downloaded or does not match the hub's size or hash; a partial download is kept
 *   for the next attempt
 */
export async function downloadFile(
  url: string,
  file: HubFile,
  target: string,
  options: DownloadOptions,
): Promise<void> {
  makeFolder(dirname(target));
  const held = await lock(`${target}.lock`, options.signal);
  try {
    if (existsSync(target)) return options.onBytes(file.size); // another process downloaded it meanwhile
    const part = `${target}.incomplete`;
    await fillPart(url, file, part, options);
    await checkContent(part, file);
    renameSync(part, target);
  } finally {
    held.release();
  }
}

async function fillPart(url: string, file: HubFile, part: string, options: DownloadOptions): Promise<void> {
  const sizeOf = (): number => (existsSync(part) ? statSync(part).size : 0);
  if (sizeOf() > file.size) rmSync(part);
  options.onBytes(sizeOf());
  for (let failures = 0; sizeOf() < file.size;) {
    const before = sizeOf();
    try {
      await append(url, file, part, options);
    } catch (error) {
      if (isFileError(error) || options.signal?.aborted) throw error;
      failures = sizeOf() > before ? 1 : failures + 1; // some bytes arrived, so the server works
      const delay = delayAfter(error, failures, options.firstDelay);
      if (delay === undefined) throw error instanceof HubError ? error : brokenOff(error, url, file, sizeOf());
      await sleep(delay, undefined, options.signal && { signal: options.signal });
    }
  }
  if (file.size === 0) closeSync(openSync(part, "a"));
}

function brokenOff(error: unknown, url: string, { path, size }: HubFile, kept: number): HubError {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const received = cause instanceof Error ? cause.message || (cause as NodeJS.ErrnoException).code : String(cause);
  return new HubError(
    `Expected ${path} from ${new URL(url).host} but received: ${received}; ${kept} of ${size} bytes are kept for the ` +
      "next attempt",
    { cause: error },
  );
}

/** Requests the missing rest of a partial file and appends it. */
async function append(url: string, file: HubFile, part: string, options: DownloadOptions): Promise<void> {
  const { repository, token, onBytes } = options;
  const watch = untilSilent(options.signal);
  let have = existsSync(part) ? statSync(part).size : 0;
  let out: number | undefined;
  try {
    const headers = have > 0 ? { range: `bytes=${have}-` } : {};
    const response = await get(url, { token, signal: watch.signal, headers });
    if (response.status === 416) {
      rmSync(part);
      onBytes(-have);
      throw new Error("the server's file is shorter than the partial download");
    }
    if (!response.ok) throw httpError(response, `${repository}/${file.path}`);
    if (have > 0 && response.status !== 206) {
      // A server without range requests sends the whole file.
      onBytes(-have);
      have = 0;
    }
    out = openSync(part, have > 0 ? "a" : "w");
    for await (const chunk of response.body as AsyncIterable<Uint8Array>) {
      watch.hear();
      for (let done = 0; done < chunk.length;) done += writeSync(out, chunk, done);
      have += chunk.length;
      onBytes(chunk.length);
      // Too long, which is found out below; an answer without an end would fill the disk.
      if (have > file.size) break;
    }
    fsyncSync(out);
  } finally {
    watch.end();
    if (out !== undefined) closeSync(out);
  }
  if (have < file.size) throw new Error("the connection ended early");
}

async function checkContent(part: string, { path, size, sha256 }: HubFile): Promise<void> {
  const received = statSync(part).size;
  if (received !== size) {
    rmSync(part);
    throw new HubError(`Expected ${size} bytes for ${path} but received ${received}; the download was discarded`);
  }
  if (sha256 === undefined) return;
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(part)) hash.update(chunk as Buffer);
  const digest = hash.digest("hex");
  if (digest !== sha256) {
    rmSync(part);
    throw new HubError(`Expected SHA-256 ${sha256} for ${path} but received ${digest}; the download was discarded`);
  }
}

/** Whether an error comes from the file system, where retrying the download would not help. */
export function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error && "code" in error;
}
