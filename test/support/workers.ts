/** Starts several processes as workers that meet on this machine, as `b2 launch` and torchrun do. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { createInterface } from "node:readline";

/** A port that nothing listens on. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

export interface WorkerProcess {
  readonly child: ChildProcess;
  /** Lines of its output so far. */
  readonly lines: string[];
  /** The exit code, and null where a signal has ended it. */
  readonly ended: Promise<number | null>;
  /** Resolves when it has printed this line. */
  readonly said: (line: string) => Promise<void>;
  /** Resolves when it has printed such a line. */
  readonly saidLike: (pattern: RegExp) => Promise<void>;
}

/** The variables of PyTorch for one of several workers. */
export const workerVariables = (rank: number, size: number, port: number): Record<string, string> => ({
  RANK: String(rank),
  LOCAL_RANK: String(rank),
  WORLD_SIZE: String(size),
  MASTER_ADDR: "127.0.0.1",
  MASTER_PORT: String(port),
});

const started = new Set<ChildProcess>();

/** Ends all workers that still run, those that are stopped too: to be called after each test. */
export function endWorkers(): void {
  for (const child of started) child.kill("SIGKILL");
}

/** Starts `node <args>` once for each rank. */
export async function startWorkers(
  size: number,
  args: readonly string[],
  variables: NodeJS.ProcessEnv = {},
  { ranks = Array.from({ length: size }, (_, rank) => rank), port }: { ranks?: readonly number[]; port?: number } = {},
): Promise<WorkerProcess[]> {
  port ??= await freePort();
  return ranks.map((rank) =>
    startWorker(args, { B2_THREADS: "1", ...workerVariables(rank, size, port), ...variables }),
  );
}

function startWorker(args: readonly string[], variables: NodeJS.ProcessEnv): WorkerProcess {
  const child = spawn(process.execPath, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...variables },
  });
  started.add(child);
  child.once("close", () => started.delete(child));
  const lines: string[] = [];
  const listeners = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on("line", (line) => {
      lines.push(line);
      listeners.forEach((listener) => listener());
    });
  }
  const ended = once(child, "close").then(([code]) => code as number | null);
  const saidLike = (pattern: RegExp): Promise<void> => wait(pattern.source, (line) => pattern.test(line));
  const said = (text: string): Promise<void> => wait(text, (line) => line === text);
  const wait = (what: string, isIt: (line: string) => boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        if (!lines.some(isIt)) return;
        listeners.delete(look);
        resolve();
      };
      listeners.add(look);
      void ended.then(() => reject(new Error(`The worker has ended without "${what}": ${lines.join("\n")}`)));
      look();
    });
  return { child, lines, ended, said, saidLike };
}
