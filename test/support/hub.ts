/**
 * A hub on this machine: the parts of the Hugging Face hub's HTTP interface that downloads use, over real folders. Large
 * files are redirected to a second server with another origin, as the real hub does.
 */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join, relative } from "node:path";

/** A repository: what it holds, and how it behaves. */
export interface FakeRepository {
  readonly folder: string;
  /** Its files are only for this token; that they are there, everybody may know. */
  readonly gated?: string;
  /** The name it has now. */
  readonly renamed?: string;
}

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const REVISIONS = ["main", "refs/pr/1", COMMIT];
/** Files from this size up are stored apart. */
const LARGE = 2000;
const PAGE = 5;

export class FakeHub {
  readonly commit = COMMIT;
  /** What was asked for, in order: method, path, and the token that came with it. */
  readonly requests: {
    readonly path: string;
    readonly range?: string | undefined;
    readonly token?: string | undefined;
    readonly server: "hub" | "store";
  }[] = [];
  /** Content bytes sent. */
  sent = 0;
  /** The connection breaks off after so many bytes of a stored file; once a number. */
  breakAfter: number[] = [];
  /** Answers of the hub in place of its own; once each. */
  failures: { readonly status: number; readonly headers?: Record<string, string> }[] = [];
  /** A connection falls silent where it would break off. */
  silent = false;
  /** Stored files come with a byte changed. */
  corrupt = false;
  readonly repositories: Readonly<Record<string, FakeRepository>>;
  readonly #hub: Server;
  readonly #store: Server;

  private constructor(repositories: Readonly<Record<string, FakeRepository>>) {
    this.repositories = repositories;
    this.#hub = createServer((request, response) => this.#answer(request, response));
    this.#store = createServer((request, response) => this.#serveStored(request, response));
  }

  static async start(repositories: Readonly<Record<string, FakeRepository>>): Promise<FakeHub> {
    const hub = new FakeHub(repositories);
    for (const server of [hub.#hub, hub.#store]) await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    return hub;
  }

  get url(): string {
    return urlOf(this.#hub);
  }

  async stop(): Promise<void> {
    for (const server of [this.#hub, this.#store]) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }

  /** The files of a repository, and the names of their contents. */
  filesOf(repository: string): (readonly [path: string, etag: string])[] {
    return tree(this.repositories[repository]!.folder).map(({ path, oid, lfs }) => [path, lfs?.oid ?? oid]);
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname, searchParams } = new URL(request.url!, "http://hub");
    const token = request.headers.authorization?.replace("Bearer ", "");
    this.requests.push({ path: pathname, token, range: request.headers.range, server: "hub" });
    const [, apiName, kind, revision] = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)/.exec(pathname) ?? [];
    const [, fileName, , path] = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(pathname) ?? [];
    const repository = this.repositories[apiName ?? fileName ?? ""];
    const refuse = (status: number, code: string, error: string): void => {
      const headers = { "content-type": "application/json", "x-error-message": error };
      response.writeHead(status, code === "" ? headers : { ...headers, "x-error-code": code });
      response.end(JSON.stringify({ error }));
    };
    const failure = this.failures.shift();
    if (failure !== undefined) return void response.writeHead(failure.status, failure.headers).end();
    if (token === "hf_expired") return refuse(401, "", "Invalid credentials in Authorization header");
    if (repository === undefined) {
      // The real one tells strangers no more than this.
      if (token === undefined) return refuse(401, "RepoNotFound", "Invalid username or password.");
      return refuse(404, "RepoNotFound", "Repository not found");
    }
    if (repository.renamed !== undefined) {
      response.writeHead(307, { location: request.url!.replace(apiName ?? fileName!, repository.renamed) });
      return void response.end();
    }
    if (fileName !== undefined && repository.gated !== undefined && repository.gated !== token) {
      return refuse(token === undefined ? 401 : 403, "GatedRepo", "Access to this model is restricted.");
    }
    if (apiName !== undefined && !REVISIONS.includes(decodeURIComponent(revision!))) {
      return refuse(404, "RevisionNotFound", `Invalid rev id: ${revision}`);
    }
    if (kind === "revision")
      return json(response, {
        _id: "1",
        id: apiName,
        sha: COMMIT,
        private: false,
        gated: false,
        likes: 0,
        downloads: 0,
        lastModified: "2026-01-01T00:00:00.000Z",
      });
    if (kind === "tree") {
      const from = Number(searchParams.get("cursor") ?? 0);
      const all = tree(repository.folder);
      if (from + PAGE < all.length) {
        response.setHeader("link", `<${this.url}${pathname}?recursive=true&cursor=${from + PAGE}>; rel="next"`);
      }
      return json(response, all.slice(from, from + PAGE));
    }
    const file = join(repository.folder, decodeURIComponent(path!));
    if (statSync(file).size < LARGE) {
      const content = readFileSync(file);
      this.sent += content.length;
      response.end(content);
      return;
    }
    response.writeHead(302, { location: `${urlOf(this.#store)}/${encodeURIComponent(file)}` });
    response.end();
  }

  #serveStored(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(request.url!.slice(1));
    const { range, authorization } = request.headers;
    this.requests.push({ path, range, token: authorization, server: "store" });
    const whole = Buffer.from(readFileSync(path));
    if (this.corrupt) whole[whole.length - 1]! ^= 1;
    const from = Number(/bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0);
    const content = whole.subarray(from);
    response.writeHead(from > 0 ? 206 : 200, {
      "content-length": content.length,
      ...(from > 0 && { "content-range": `bytes ${from}-${whole.length - 1}/${whole.length}` }),
    });
    const until = this.breakAfter.shift();
    if (until === undefined || until >= content.length) {
      this.sent += content.length;
      response.end(content);
      return;
    }
    this.sent += until;
    response.write(content.subarray(0, until), () => {
      if (!this.silent) setTimeout(() => response.destroy(), 20);
    });
  }
}

const urlOf = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { "content-type": "application/json" });
  response.end(JSON.stringify(value));
}

interface Entry {
  readonly type: "file" | "directory";
  readonly path: string;
  readonly size: number;
  readonly oid: string;
  readonly lfs?: { readonly oid: string; readonly size: number; readonly pointerSize: number };
}

/** A folder's files as the hub lists them. */
function tree(folder: string): Entry[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).map((entry) => {
    const file = join(entry.parentPath, entry.name);
    const path = relative(folder, file);
    if (entry.isDirectory()) return { type: "directory", path, size: 0, oid: "" };
    const content = readFileSync(file);
    const blob = createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
    const small: Entry = { type: "file", path, size: content.length, oid: blob };
    if (content.length < LARGE) return small;
    const sha256 = createHash("sha256").update(content).digest("hex");
    return { ...small, lfs: { oid: sha256, size: content.length, pointerSize: 130 } };
  });
}
