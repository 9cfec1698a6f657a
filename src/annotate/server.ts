/**
 * The local server of `b2 annotate`: the page and its images, and what is chosen on it.
 *
 * Only programs of this machine reach 127.0.0.1, but those of other people and any web page in the browser are among
 * them. So every path begins with a token that only the printed address has, and the Host must be this server's: a foreign
 * name that resolves to 127.0.0.1 (DNS rebinding) is refused.
 */
import { randomBytes, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { InputError } from "../base/errors.js";
import { isJsonObject } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";
import type { Annotations } from "./annotations.js";
import { Board } from "./board.js";
import type { BoardState, PageState } from "./page-state.js";

/** A server that runs. */
export interface PageServer {
  /** The address of the page, token included. */
  readonly address: string;
  close(): Promise<void>;
}

export interface ServeOptions {
  /** The run, as the page names it. */
  readonly run: string;
  /** 0 for any that is free. */
  readonly port: number;
  /** Whether a process works on the run, so that more groups may come. */
  readonly isRunning: () => boolean;
  /** Called after every change that the page has made. */
  readonly onChange?: (state: BoardState) => void;
}

const HOST = "127.0.0.1";

/** The longest choice: 9 images, and as many more as anyone compares. */
const MOST_BYTES = 1 << 18;

/** Nothing but this server's own files, and no page around it. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
  "form-action 'none'; frame-ancestors 'none'";

const HEADERS = {
  "content-security-policy": POLICY,
  "cross-origin-resource-policy": "same-origin",
  "cross-origin-opener-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
};

const source = (name: string): string => join(packageRoot(), "src/annotate/page", name);

/** Files of the page. They lie beside each other as in src/annotate, so that imports are the same in both places. */
const FILES: Readonly<Record<string, readonly [type: string, file: string]>> = {
  "": ["text/html", source("index.html")],
  "page/style.css": ["text/css", source("style.css")],
  "page/icon.svg": ["image/svg+xml", source("icon.svg")],
  "page/main.js": ["text/javascript", source("main.js")],
  "page/view.js": ["text/javascript", source("view.js")],
  "choices.js": ["text/javascript", join(import.meta.dirname, "choices.js")],
};

/** An answer other than a page: its status, and a sentence. */
class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * Serves the page of an annotation folder until it is closed.
 *
 * @param annotations whose lock this process holds
 * @throws InputError when the port is taken
 */
export async function serve(annotations: Annotations, options: ServeOptions): Promise<PageServer> {
  const pages = new Pages(annotations, options);
  const server = createServer((request, response) => void pages.answer(request, response));
  await listen(server, options.port);
  const { port } = server.address() as AddressInfo;
  pages.hosts = [`${HOST}:${port}`, `localhost:${port}`];
  return {
    address: `http://${HOST}:${port}/${pages.token}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeIdleConnections();
        // Those that still read their last answer have a moment.
        setTimeout(() => server.closeAllConnections(), 500).unref();
      }),
  };
}

/** @throws InputError when the port is taken, or not for everyone */
const listen = (server: Server, port: number): Promise<void> =>
  new Promise((resolve, reject) => {
    server.once("error", ({ code, message }: NodeJS.ErrnoException) => {
      const reasons: Readonly<Record<string, string>> = {
        EADDRINUSE: "which another program uses",
        EACCES: "which only root may use",
      };
      const reason = reasons[code ?? ""] ?? `at which the system says: ${message}`;
      reject(new InputError(`Expected a free port for --port but received ${port}, ${reason}`));
    });
    server.listen(port, HOST, resolve);
  });

class Pages {
  readonly token = randomBytes(18).toString("base64url");
  /** What a request may call this server. */
  hosts: readonly string[] = [];
  readonly #annotations: Annotations;
  readonly #board: Board;
  readonly #options: ServeOptions;

  constructor(annotations: Annotations, options: ServeOptions) {
    this.#annotations = annotations;
    this.#board = new Board(annotations);
    this.#options = options;
  }

  /** Answers any request; what goes wrong is told to the page. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const send = (status: number, type: string, body: string | Uint8Array, headers = {}): void =>
      void response.writeHead(status, { ...HEADERS, ...headers, "content-type": type }).end(body);
    try {
      await this.#answer(request, send);
    } catch (error) {
      const status = error instanceof Refusal ? error.status : error instanceof InputError ? 400 : 500;
      // What is left of a body that is too long is not read.
      const headers = request.complete ? {} : { connection: "close" };
      send(status, "text/plain; charset=utf-8", `${(error as Error).message}\n`, headers);
    }
  }

  async #answer(
    request: IncomingMessage,
    send: (status: number, type: string, body: string | Uint8Array, headers?: object) => void,
  ): Promise<void> {
    const path = this.#pathOf(request);
    const sendState = (status = 200): void => send(status, "application/json", JSON.stringify(this.#state()));
    if (path === "judge" || path === "undo") {
      expectMethod(request, "POST");
      this.#expectOwnPage(request);
      const given = await jsonOf(request);
      const done = path === "undo" ? this.#board.undo() : this.#board.judge(given);
      sendState(done ? 200 : 409);
      this.#options.onChange?.(this.#board.state());
      return;
    }
    expectMethod(request, "GET");
    if (path === "state") return sendState();
    const file = FILES[path];
    if (file !== undefined) return send(200, `${file[0]}; charset=utf-8`, readFileSync(file[1]));
    const [, image] = /^images\/([0-9a-f]{64})\.png$/.exec(path) ?? [];
    // An image of that name is always the same.
    const forEver = { "cache-control": "private, max-age=31536000, immutable" };
    send(200, "image/png", readOr404(image === undefined ? "" : this.#annotations.imageFile(image)), forEver);
  }

  #state(): PageState {
    return { run: this.#options.run, isRunning: this.#options.isRunning(), ...this.#board.state() };
  }

  /** What comes after the token. @throws Refusal for another host or token */
  #pathOf({ headers, url = "" }: IncomingMessage): string {
    if (!this.hosts.includes(headers.host ?? "")) {
      throw new Refusal(421, `Expected ${this.hosts[0]} as host of the address`);
    }
    const [, token = "", path] = /^\/([^/?]*)\/([^?]*)/.exec(url) ?? [];
    if (path !== undefined && isEqual(token, this.token)) return path;
    throw new Refusal(
      404,
      "Expected the whole address that b2 annotate has printed; it prints another each time that it is started",
    );
  }

  /** @throws Refusal for a request that another site's page makes */
  #expectOwnPage({ headers }: IncomingMessage): void {
    const own = headers.origin === undefined || headers.origin === `http://${headers.host}`;
    if (!own) throw new Refusal(403, "Expected a request of this server's own page");
  }
}

/** Compares without telling by its duration how much is the same. */
function isEqual(one: string, other: string): boolean {
  const [a, b] = [Buffer.from(one), Buffer.from(other)];
  return a.length === b.length && timingSafeEqual(a, b);
}

/** @throws Refusal for another method */
function expectMethod({ method }: IncomingMessage, wanted: string): void {
  if (method !== wanted) throw new Refusal(405, `Expected ${wanted} but received ${method}`);
}

/** The JSON of a request. @throws Refusal when it is none, or too long */
async function jsonOf(request: IncomingMessage): Promise<unknown> {
  if (request.headers["content-type"] !== "application/json") throw new Refusal(415, "Expected application/json");
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > MOST_BYTES) throw new Refusal(413, `Expected at most ${MOST_BYTES} bytes`);
    chunks.push(chunk);
  }
  try {
    const value: unknown = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    if (isJsonObject(value)) return value;
  } catch {
    // Told below.
  }
  throw new Refusal(400, "Expected a JSON object");
}

/** @throws Refusal when there is no such file */
function readOr404(file: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch {
    throw new Refusal(404, "Expected a page or an image of this server");
  }
}
