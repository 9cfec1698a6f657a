/**
 * Models by their names on the Hugging Face hub: listed with @huggingface/hub, downloaded into the cache that Python's
 * huggingface_hub uses, and found there without a connection.
 *
 * The package's own download starts over when it is interrupted and checks no hash; download.ts does both.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Response } from "undici";
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";
import { CachedRepository, type HubFile } from "./cache.js";
import { downloadFile, isFileError } from "./download.js";
import { hubCache, hubEndpoint, hubToken, isOffline } from "./environment.js";
import { HubBusyError, HubError, NoRevisionError } from "./error.js";
import { neededFiles, type Wanted } from "./files.js";
import { delayAfter, get, httpError, untilSilent, withBody } from "./http.js";

/** A repository on the hub, optionally with a revision or a single file. */
export interface HubName {
  readonly repository: string;
  readonly revision?: string | undefined;
  readonly file?: string | undefined;
}

export interface DownloadModelOptions extends Partial<Omit<Wanted, "file">> {
  /** A branch, a tag or a commit, if the name has none. Default: main. */
  readonly revision?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called once before anything is downloaded. */
  readonly onStart?: (files: number, bytes: number) => void;
  /** Called as bytes arrive; those of an earlier attempt are reported at once. */
  readonly onBytes?: (bytes: number, file: string) => void;
  /** Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
  /** Default: HF_HUB_CACHE and so on, see hubCache. */
  readonly cache?: string;
  /** Milliseconds to wait after a first failure, doubled after each further one. */
  readonly firstDelay?: number;
}

/**
 * Parses `owner/name`, `owner/name@revision`, or either with `/path/to/file.safetensors`; undefined for anything else.
 */
export function parseHubName(text: string): HubName | undefined {
  const form = /^([\w.-]+\/[\w.-]+?)(?:@(refs\/[\w.-]+\/[\w.-]+|[\w.-]+))?(?:\/([^\\]+\.safetensors))?$/;
  const [, repository, revision, file] = form.exec(text) ?? [];
  if (repository === undefined || /(^|[/@])\.{1,2}(\/|$)/.test(text) || repository.endsWith(".safetensors"))
    return undefined;
  return { repository, revision, file };
}

/** The folder of a model in the cache, or its named file; undefined if it is not there. Makes no request. */
export function cachedModel(
  name: string,
  { revision, cache = hubCache() }: DownloadModelOptions = {},
): string | undefined {
  const parsed = parseHubName(name);
  if (parsed === undefined) return undefined;
  const repository = new CachedRepository(parsed.repository, cache);
  const commit = repository.commitOf(parsed.revision ?? revision ?? "main");
  if (commit === undefined) return undefined;
  const path = join(repository.snapshot(commit), parsed.file ?? "");
  return existsSync(path) ? path : undefined;
}

/**
 * Downloads the needed files of a model, unless the cache has them.
 *
 * @returns the folder, or the file if the name includes one
 * @throws HubError with the reason: no such repository or revision, no access, no connection, or a corrupt file;
 *   partial downloads are kept for the next attempt
 */
export async function downloadModel(name: string, options: DownloadModelOptions = {}): Promise<string> {
  const { purpose = "model", weights, variant, layouts, signal, offline = isOffline(), cache = hubCache() } = options;
  const parsed = parseHubName(name);
  if (parsed === undefined) throw new HubError(`Expected owner/name for a model on the hub but received ${name}`);
  const revision = parsed.revision ?? options.revision ?? "main";
  const repository = new CachedRepository(parsed.repository, cache);
  const wanted = { purpose, weights, variant, layouts, file: parsed.file };
  const kept = fromCache(repository, revision, wanted);
  if (offline) {
    if (typeof kept === "string") return kept;
    const lack = kept === undefined ? "" : `: ${kept.message}`;
    throw new HubError(
      `Expected ${name} (${revision}) in ${cache}, as HF_HUB_OFFLINE is set, but it is not there${lack}`,
    );
  }
  const { firstDelay } = options;
  const hub = { endpoint: hubEndpoint(), token: hubToken(), signal, isPatient: typeof kept !== "string", firstDelay };
  let listed: Awaited<ReturnType<typeof listRepository>>;
  try {
    listed = await listRepository(parsed.repository, revision, hub);
  } catch (error) {
    // As in Python: if the hub does not answer, or refuses us, use the cache.
    if (typeof kept === "string" && !(error instanceof NoRevisionError) && !signal?.aborted) return kept;
    throw toHubError(error, parsed.repository);
  }
  const paths = neededFiles(parsed.repository, [...listed.files.keys()], wanted);
  const files = paths.map((path) => checkedFile(listed.files.get(path)!, parsed.repository));
  const missing = files.filter((file) => !existsSync(join(repository.snapshot(listed.commit), file.path)));
  options.onStart?.(
    missing.length,
    missing.reduce((sum, { size }) => sum + size, 0),
  );
  try {
    for (const file of missing) {
      const url = `${hub.endpoint}/${parsed.repository}/resolve/${listed.commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`;
      const onBytes = (bytes: number): void => options.onBytes?.(bytes, file.path);
      const target = repository.blob(file.etag);
      if (existsSync(target)) onBytes(file.size);
      else {
        const request = { repository: parsed.repository, token: hub.token, signal, firstDelay };
        await downloadFile(url, file, target, { ...request, onBytes });
      }
      repository.link(listed.commit, file);
    }
    // Last, so that a branch never points to an incomplete snapshot.
    repository.setRef(revision, listed.commit);
  } catch (error) {
    // makeFolder has made a sentence of it.
    const failure = error instanceof InputError && !(error instanceof HubError) ? error.cause : error;
    throw isFileError(failure) ? cacheError(failure, cache) : error;
  }
  return placeOf(repository, listed.commit, wanted, paths);
}

/** The cached model as downloadModel returns it; an error naming what is missing; or undefined if nothing is cached. */
function fromCache(repository: CachedRepository, revision: string, wanted: Wanted): string | HubError | undefined {
  const commit = repository.commitOf(revision);
  if (commit === undefined) return undefined;
  try {
    return placeOf(repository, commit, wanted, neededFiles(repository.name, repository.files(commit), wanted));
  } catch (error) {
    if (error instanceof HubError) return error;
    throw error;
  }
}

/** The folder of a model, or its single wanted file. */
function placeOf(
  repository: CachedRepository,
  commit: string,
  { file, purpose }: Wanted,
  paths: readonly string[],
): string {
  return join(repository.snapshot(commit), file ?? (purpose === "weights" ? paths[0]! : ""));
}

interface Hub {
  readonly endpoint: string;
  readonly token: string | undefined;
  readonly signal: AbortSignal | undefined;
  /** Whether to retry when the hub is overloaded. */
  readonly isPatient: boolean;
  readonly firstDelay: number | undefined;
}

/** Files of a repository at most, and pages of their list; the largest have some ten thousand. */
const MOST_FILES = 1_000_000;
const MOST_PAGES = 1_000;

/** Looks up the commit of a revision and its files. */
async function listRepository(
  name: string,
  revision: string,
  hub: Hub,
): Promise<{ commit: string; files: Map<string, HubFile> }> {
  const { listFiles, modelInfo } = await import("@huggingface/hub");
  const pages = new Set<string>();
  // Our own fetch adds the token, because the package refuses tokens of mirrors, which do not begin with hf_.
  const fetch = (url: unknown): Promise<globalThis.Response> => {
    const page = String(url);
    if (pages.has(page) || pages.size >= MOST_PAGES) throw endlessList(name);
    pages.add(page);
    return ask(page, name, revision, hub);
  };
  const common = { hubUrl: hub.endpoint, fetch };
  const { sha } = await modelInfo({ name, revision, additionalFields: ["sha"], ...common });
  // It names a folder.
  if (!isHash(sha)) throw new HubError(`Expected the hash of a commit of ${name} but received ${show(sha)}`);
  const files = new Map<string, HubFile>();
  for await (const { type, path, size, oid, lfs } of listFiles({
    repo: name,
    recursive: true,
    revision: sha,
    ...common,
  })) {
    if (type !== "file") continue;
    if (files.size >= MOST_FILES) throw endlessList(name);
    if (typeof (path as unknown) !== "string") {
      throw new HubError(`Expected paths in the list of the files of ${name} but received ${show(path)}`);
    }
    files.set(path, { path, size: lfs?.size ?? size, etag: lfs?.oid ?? oid ?? "", sha256: lfs?.oid });
  }
  return { commit: sha, files };
}

const endlessList = (name: string): HubError =>
  new HubError(`Expected a list of the files of ${name} but received one without an end`);

const isHash = (text: unknown): boolean => typeof text === "string" && /^[0-9a-f]{1,128}$/i.test(text);

/**
 * A file as the hub lists it, once its path and hash are such that they can name files of the cache.
 *
 * @throws HubError for others
 */
function checkedFile(file: HubFile, repository: string): HubFile {
  const { path, size, etag } = file;
  const fail = (expected: string, received: unknown): never => {
    throw new HubError(`Expected ${expected} of ${repository} but received ${show(received)}`);
  };
  if (/[\\\0]/.test(path) || path.split("/").some((part) => ["", ".", ".."].includes(part)))
    fail("a path inside", path);
  if (!isHash(etag)) fail(`the hash of ${path}`, etag);
  if (!Number.isSafeInteger(size) || size < 0) fail(`the size of ${path}`, size);
  return file;
}

async function ask(url: string, name: string, revision: string, hub: Hub): Promise<Response> {
  const { endpoint, token, signal, isPatient, firstDelay } = hub;
  // The address of a further page comes from the hub; a mirror may name the original, which the token is not for.
  const secret = new URL(url).origin === new URL(endpoint).origin ? token : undefined;
  for (let failures = 1; ; failures++) {
    const watch = untilSilent(signal);
    const headers = { accept: "application/json" };
    let error: HubError;
    try {
      const response = await get(url, { token: secret, signal: watch.signal, headers });
      if (response.ok) return await withBody(response, watch.hear);
      await response.body?.cancel();
      error = httpError(response, name, revision);
    } finally {
      watch.end();
    }
    const delay = isPatient && error instanceof HubBusyError ? delayAfter(error, failures, firstDelay) : undefined;
    if (delay === undefined) throw error;
    await sleep(delay, undefined, signal && { signal });
  }
}

/** Turns a network error into a HubError with advice. */
function toHubError(error: unknown, repository: string): unknown {
  if (error instanceof HubError || !(error instanceof TypeError || error instanceof SyntaxError)) return error;
  const { message, code } = (error.cause ?? error) as NodeJS.ErrnoException;
  return new HubError(
    `Expected a connection to the hub for ${repository} but received: ${message || (code ?? "none")}; give a local ` +
      "folder, or set HF_HUB_OFFLINE=1 to use the cache alone",
    { cause: error },
  );
}

function cacheError(error: NodeJS.ErrnoException, cache: string): HubError {
  if (error.code === "ENOSPC" || error.code === "EDQUOT") {
    return new HubError(
      `Expected room for the download in ${cache} but the disk is full (${error.code}); the partial download is kept. Set ` +
        "HF_HOME to a folder with more room",
      { cause: error },
    );
  }
  return new HubError(
    `Expected to write to ${cache} but received: ${error.message}; set HF_HOME to a folder that you can write to`,
    {
      cause: error,
    },
  );
}
