/** A child process that answers every line on its standard input with a line of JSON: the other side of a benchmark. */
import { spawn, type ChildProcessByStdio } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";

export interface LineProcessOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Discards its standard error. */
  readonly silent?: boolean;
}

export class LineProcess {
  readonly #command: string;
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  #failure: Error | undefined;

  /** @param command a program; if it cannot be started, the first answer throws */
  constructor(
    command: string,
    args: readonly string[],
    { env = process.env, silent = false }: LineProcessOptions = {},
  ) {
    this.#command = command;
    const child = spawn(command, args, { stdio: ["pipe", "pipe", silent ? "ignore" : "inherit"], env });
    this.#child = child;
    this.#child.on("error", (error) => (this.#failure = error));
    // Writing to a process that has ended fails silently here; the next answer throws.
    this.#child.stdin.on("error", () => undefined);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  /**
   * The next line of the process, or its answer to a question.
   *
   * @throws Error when the process has ended
   */
  async answer(question?: string): Promise<unknown> {
    if (question !== undefined) this.#child.stdin.write(`${question}\n`);
    const line = await this.#lines.next();
    if (line.done !== true) return JSON.parse(line.value);
    throw new Error(`Expected an answer from ${this.#command} but it ended`, { cause: this.#failure });
  }

  /** Lets the process end. */
  end(): void {
    this.#child.stdin.end();
  }
}

/**
 * The environment for PyTorch's side. Our engine sets OpenMP's wait policy for its own process; PyTorch gets the
 * default, with which it is fastest when running alone.
 */
export function pytorchEnvironment(): NodeJS.ProcessEnv {
  const env = { ...process.env };
  delete env["OMP_WAIT_POLICY"];
  delete env["GOMP_SPINCOUNT"];
  return env;
}
