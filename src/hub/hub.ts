/**
 * Models by their names on the Hugging Face hub: listed with @huggingface/hub, downloaded into the cache that Python's
 * huggingface_hub uses, and found there without a connection.
 *
 * The package's own download starts over when it is interrupted and checks no hash; download.ts does both.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { HubApiError, listFiles, modelInfo } from "@huggingface/hub";
import { CachedRepository, hubCache, hubToken, type HubFile } from "./cache.js";
import { downloadFile, httpError } from "./download.js";
import { HubError } from "./error.js";
import { neededFiles, type Wanted } from "./files.js";

/** A repository, and one file of it where that is meant. */
export interface HubName {
  readonly repository: string;
  readonly file?: string | undefined;
}

export interface DownloadModelOptions extends Partial<Omit<Wanted, "file">> {
  /** A branch, a tag or a commit. Default: main. */
  readonly revision?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told before anything is fetched: the bytes to come. */
  readonly onStart?: (files: number, bytes: number) => void;
  /** Told as bytes arrive; those of an earlier attempt count at once. */
  readonly onBytes?: (bytes: number, file: string) => void;
  /** Default: HF_HUB_OFFLINE. */
  readonly offline?: boolean;
  /** Default: HF_HUB_CACHE and so on, see hubCache. */
  readonly cache?: string;
}

/** `owner/name`, or `owner/name/path/to/file.safetensors`; undefined for what cannot be one. */
export function parseHubName(text: string): HubName | undefined {
  const [, repository, file] = /^([\w.-]+\/[\w.-]+?)(?:\/([^\\]+\.safetensors))?$/.exec(text) ?? [];
  if (repository === undefined || /(^|\/)\.{1,2}(\/|$)/.test(text) || repository.endsWith(".safetensors"))
    return undefined;
  return { repository, file };
}

const isOffline = (): boolean => /^(1|true|yes|on)$/i.test(process.env["HF_HUB_OFFLINE"] ?? "");

/** The folder (or the file) of a model in the cache; undefined when it is not there. Asks nobody. */
export function cachedModel(
  name: string,
  { revision = "main", cache = hubCache() }: DownloadModelOptions = {},
): string | undefined {
  const parsed = parseHubName(name);
  if (parsed === undefined) return undefined;
  const repository = new CachedRepository(parsed.repository, cache);
  const commit = repository.commitOf(revision);
  if (commit === undefined) return undefined;
  const path = join(repository.snapshot(commit), parsed.file ?? "");
  return existsSync(path) ? path : undefined;
}

/**
 * Downloads what is needed of a model, unless the cache has it.
 *
 * @returns the folder, or the file where the name is of one
 * @throws HubError in one sentence: no such repository or revision, no access, no connection, a file that is not what
 *   the hub says; what has come stays for the next attempt
 */
export async function downloadModel(name: string, options: DownloadModelOptions = {}): Promise<string> {
  const { revision = "main", purpose = "model", variant, signal, offline = isOffline(), cache = hubCache() } = options;
  const parsed = parseHubName(name);
  if (parsed === undefined) throw new HubError(`Expected owner/name for a model on the hub but received ${name}`);
  const repository = new CachedRepository(parsed.repository, cache);
  if (offline) {
    const cached = cachedModel(name, { revision, cache });
    if (cached !== undefined) return cached;
    throw new HubError(`Expected ${name} (${revision}) in ${cache}, as HF_HUB_OFFLINE is set, but it is not there`);
  }
  const hub = { hubUrl: process.env["HF_ENDPOINT"]?.replace(/\/$/, "") ?? "https://huggingface.co", token: hubToken() };
  let listed: Awaited<ReturnType<typeof listRepository>>;
  try {
    listed = await listRepository(parsed.repository, revision, hub, signal);
  } catch (error) {
    // As Python's: without a connection, what is in the cache will do.
    const cached = isConnectionError(error) ? cachedModel(name, { revision, cache }) : undefined;
    if (cached !== undefined) return cached;
    throw toHubError(error, parsed.repository, revision);
  }
  const paths = neededFiles(parsed.repository, [...listed.files.keys()], { purpose, variant, file: parsed.file });
  const files = paths.map((path) => listed.files.get(path)!);
  const missing = files.filter((file) => !existsSync(join(repository.snapshot(listed.commit), file.path)));
  options.onStart?.(
    missing.length,
    missing.reduce((sum, { size }) => sum + size, 0),
  );
  for (const file of missing) {
    const url = `${hub.hubUrl}/${parsed.repository}/resolve/${listed.commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`;
    const onBytes = (bytes: number): void => options.onBytes?.(bytes, file.path);
    if (existsSync(repository.blob(file.etag))) onBytes(file.size);
    else await downloadFile(url, file, repository.blob(file.etag), { token: hub.token, signal, onBytes });
    repository.link(listed.commit, file);
  }
  // Last, so that a branch never points to a snapshot that lacks something.
  repository.setRef(revision, listed.commit);
  const loaded = parsed.file ?? (purpose === "weights" ? paths[0]! : "");
  return join(repository.snapshot(listed.commit), loaded);
}

interface Hub {
  readonly hubUrl: string;
  readonly token: string | undefined;
}

/** The commit of a revision, and its files. */
async function listRepository(
  name: string,
  revision: string,
  { hubUrl, token }: Hub,
  signal: AbortSignal | undefined,
): Promise<{ commit: string; files: Map<string, HubFile> }> {
  const common = {
    hubUrl,
    ...(token !== undefined && { accessToken: token }),
    fetch: (input: string | URL | Request, init?: RequestInit) => fetch(input, { ...init, ...(signal && { signal }) }),
  };
  const { sha } = await modelInfo({ name, revision, additionalFields: ["sha"], ...common });
  const files = new Map<string, HubFile>();
  for await (const { type, path, size, oid, lfs } of listFiles({
    repo: name,
    recursive: true,
    revision: sha,
    ...common,
  })) {
    if (type !== "file") continue;
    if (path.split("/").includes("..") || path.startsWith("/"))
      throw new HubError(`Expected a path inside ${name} but received ${path}`);
    files.set(path, { path, size: lfs?.size ?? size, etag: lfs?.oid ?? oid ?? "", sha256: lfs?.oid });
  }
  return { commit: sha, files };
}

/** What fetch throws when nobody answers. */
const isConnectionError = (error: unknown): error is TypeError =>
  error instanceof TypeError && error.message === "fetch failed";

function toHubError(error: unknown, repository: string, revision: string): unknown {
  if (error instanceof HubApiError) {
    const { statusCode: status, message } = error;
    if (status === 404 && /revision/i.test(message)) {
      return new HubError(`Expected a revision of ${repository} but received ${revision}, which it does not have`, {
        cause: error,
      });
    }
    return httpError({ status, headers: new Headers() }, repository);
  }
  if (isConnectionError(error)) {
    const cause =
      error.cause instanceof Error ? error.cause.message || (error.cause as NodeJS.ErrnoException).code : error.message;
    return new HubError(
      `Expected a connection to the hub for ${repository} but received: ${cause ?? "none"}; give a local folder, or set ` +
        "HF_HUB_OFFLINE=1 to use the cache alone",
      { cause: error },
    );
  }
  if (error instanceof TypeError) return new HubError(`${repository}: ${error.message}`, { cause: error });
  return error;
}
