/**
 * The folder in which Python's huggingface_hub keeps what it downloads, shared with it: contents by their hash in
 * `blobs`, for each commit a folder of links to them in `snapshots`, branches and tags in `refs`.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";

/** Where models are kept: HF_HUB_CACHE, else `hub` in HF_HOME, else in the user's cache. */
export function hubCache(env: NodeJS.ProcessEnv = process.env): string {
  const home = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "huggingface");
  return env["HF_HUB_CACHE"] ?? env["HUGGINGFACE_HUB_CACHE"] ?? join(home, "hub");
}

/** The token of HF_TOKEN, or the one that `hf auth login` left. */
export function hubToken(env: NodeJS.ProcessEnv = process.env): string | undefined {
  const given = (env["HF_TOKEN"] ?? env["HUGGING_FACE_HUB_TOKEN"])?.trim();
  if (given) return given;
  const home = env["HF_HOME"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "huggingface");
  const file = env["HF_TOKEN_PATH"] ?? join(home, "token");
  return existsSync(file) ? readFileSync(file, "utf8").trim() || undefined : undefined;
}

/** A file of a repository, as the hub lists it. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Names its content in `blobs`: SHA-256 where it is stored as a large file, git's hash otherwise. */
  readonly etag: string;
  /** SHA-256 of its content, where the hub tells it. */
  readonly sha256: string | undefined;
}

/** One repository in the cache. */
export class CachedRepository {
  readonly folder: string;

  constructor(
    readonly name: string,
    cache = hubCache(),
  ) {
    this.folder = join(cache, `models--${name.replaceAll("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  /** The commit that a branch, a tag or a commit's own hash stands for, as far as the cache knows. */
  commitOf(revision: string): string | undefined {
    const ref = join(this.folder, "refs", revision);
    if (existsSync(ref)) return readFileSync(ref, "utf8").trim();
    return existsSync(this.snapshot(revision)) ? revision : undefined;
  }

  setRef(revision: string, commit: string): void {
    if (revision === commit) return;
    const ref = join(this.folder, "refs", revision);
    mkdirSync(dirname(ref), { recursive: true });
    writeFileSync(ref, commit);
  }

  /** Puts a blob into a snapshot under the file's name. */
  link(commit: string, { path, etag }: HubFile): void {
    const file = join(this.snapshot(commit), path);
    if (existsSync(file)) return;
    mkdirSync(dirname(file), { recursive: true });
    rmSync(file, { force: true }); // a link to a blob that is gone
    try {
      symlinkSync(relative(dirname(file), this.blob(etag)), file);
    } catch {
      copyFileSync(this.blob(etag), file); // where links are not allowed
    }
  }
}
