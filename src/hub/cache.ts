/**
 * The cache folder, shared with Python's huggingface_hub: file contents by hash in `blobs`, a folder of links to them
 * for each commit in `snapshots`, branches and tags in `refs`.
 */
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { makeFolder } from "../base/files.js";

/** A file of a repository, as the hub lists it. */
export interface HubFile {
  readonly path: string;
  readonly size: number;
  /** Names its content in `blobs`: SHA-256 where it is stored as a large file, git's hash otherwise. */
  readonly etag: string;
  /** SHA-256 of its content, if the hub gives one. */
  readonly sha256: string | undefined;
}

/** One repository in the cache. */
export class CachedRepository {
  readonly folder: string;

  constructor(
    readonly name: string,
    cache: string,
  ) {
    this.folder = join(cache, `models--${name.replaceAll("/", "--")}`);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** The files of a snapshot whose contents are in the cache. */
  files(commit: string): string[] {
    const folder = this.snapshot(commit);
    if (!existsSync(folder)) return [];
    const paths = readdirSync(folder, { recursive: true, encoding: "utf8" });
    return paths.filter((path) => existsSync(join(folder, path))).map((path) => path.replaceAll(sep, "/"));
  }

  blob(etag: string): string {
    return join(this.folder, "blobs", etag);
  }

  /** The commit of a branch, a tag or a commit hash; undefined if the cache does not know it. */
  commitOf(revision: string): string | undefined {
    const ref = join(this.folder, "refs", revision);
    if (existsSync(ref)) {
      const commit = readFileSync(ref, "utf8").trim();
      // It names a folder.
      return /^[\w-]+$/.test(commit) ? commit : undefined;
    }
    return existsSync(this.snapshot(revision)) ? revision : undefined;
  }

  setRef(revision: string, commit: string): void {
    if (revision === commit) return;
    const ref = join(this.folder, "refs", revision);
    makeFolder(dirname(ref));
    writeFileSync(ref, commit);
  }

  /** Puts a blob into a snapshot under the file's name. */
  link(commit: string, { path, etag }: HubFile): void {
    const file = join(this.snapshot(commit), path);
    if (existsSync(file)) return;
    makeFolder(dirname(file));
    rmSync(file, { force: true }); // a link to a deleted blob
    try {
      symlinkSync(relative(dirname(file), this.blob(etag)), file);
    } catch {
      copyFileSync(this.blob(etag), file); // links are not allowed here
    }
  }
}
