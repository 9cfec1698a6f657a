/** Servers on this machine for tests of rewards that ask servers. */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** What a server does with a request, the body of which is there. */
export type Handler = (body: Buffer, response: ServerResponse, request: IncomingMessage) => void | Promise<void>;

export class TestServer {
  /** Bodies of the requests so far. */
  readonly bodies: Buffer[] = [];
  /** Headers of the requests so far. */
  readonly headers: IncomingMessage["headers"][] = [];
  readonly paths: string[] = [];
  /** Requests at the same time, at most. */
  busiest = 0;
  #busy = 0;
  readonly #handlers: Handler[];
  readonly #server = createServer((request, response) => void this.#serve(request, response));

  private constructor(handlers: readonly Handler[]) {
    this.#handlers = [...handlers];
  }

  /** @param handlers of the first, second, ... request; the last one takes all that follow */
  static async start(...handlers: readonly Handler[]): Promise<TestServer> {
    const server = new TestServer(handlers);
    await server.listen(0);
    return server;
  }

  /** Listens on a port, 0 for any. */
  async listen(port: number): Promise<void> {
    await new Promise<void>((done) => this.#server.listen(port, "127.0.0.1", done));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    if (this.#server.listening) await new Promise((done) => this.#server.close(done));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.busiest = Math.max(this.busiest, ++this.#busy);
    response.once("close", () => this.#busy--);
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return; // whoever asked has gone
    }
    this.bodies.push(Buffer.concat(chunks));
    this.headers.push(request.headers);
    this.paths.push(request.url!);
    const handler = this.#handlers.length > 1 ? this.#handlers.shift()! : this.#handlers[0]!;
    await handler(this.bodies.at(-1)!, response, request);
  }
}

/** Answers JSON. */
export const json =
  (value: unknown, status = 200): Handler =>
  (_, response) =>
    void response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));

/** Answers bytes or text as they are. */
export const raw =
  (content: string | Uint8Array, status = 200, headers: Record<string, string> = {}): Handler =>
  (_, response) =>
    void response.writeHead(status, headers).end(content);

/** Never answers. */
export const silence: Handler = () => undefined;
