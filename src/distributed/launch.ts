/**
 * Starts the workers of one host as processes, as torchrun does, with PyTorch's variables. When one of them fails, the
 * others get a while to find out and to say so; then they are stopped.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import type { Environment } from "./environment.js";
import { WorkerError } from "./error.js";

/** What to start on this host, of how many hosts. */
export interface Launch {
  /** Workers on each host. */
  readonly processes: number;
  readonly nodes: number;
  readonly nodeRank: number;
  /** Where rank 0 serves the store. */
  readonly host: string;
  readonly port: number;
  /** The program and its arguments. */
  readonly command: readonly [string, ...string[]];
  readonly environment: Environment;
  /** Seconds that the others get to end by themselves after one has failed. */
  readonly grace: number;
  /** Called with each line that a worker other than rank 0 prints. */
  readonly onLine: (rank: number, line: string) => void;
  /** Called when the first one has failed. */
  readonly onFailure: (sentence: string) => void;
}

/** How long a worker gets between SIGTERM and SIGKILL, in milliseconds. */
const LAST_MS = 5000;

interface Worker {
  readonly rank: number;
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
}

/**
 * Starts the workers and waits for their end.
 *
 * @param signal passes SIGTERM on to them
 * @returns 0, or the exit code of the first that failed
 * @throws WorkerError for a worker that could not be started, or was ended by a signal, with its rank
 */
export async function launch(options: Launch, signal: AbortSignal): Promise<number> {
  const { grace, onFailure } = options;
  let code = 0;
  let failure: WorkerError | undefined;
  let timer: NodeJS.Timeout | undefined;
  const workers: Worker[] = [];
  const stop = (name: NodeJS.Signals): void => workers.forEach(({ child }) => void child.kill(name));
  const stopAfter = (milliseconds: number): void => {
    timer ??= setTimeout(() => {
      stop("SIGTERM");
      timer = setTimeout(() => stop("SIGKILL"), LAST_MS);
    }, milliseconds);
  };
  const onEnd = (rank: number, pid: number | undefined, outcome: number | NodeJS.Signals | Error): void => {
    if (outcome === 0 || code !== 0 || failure !== undefined) return;
    if (typeof outcome === "number") {
      code = outcome;
      onFailure(`rank ${rank} (process ${pid}) has ended with exit code ${outcome}`);
    } else {
      const how = outcome instanceof Error ? `could not start: ${outcome.message}` : `was ended by ${outcome}`;
      failure = new WorkerError(`Expected rank ${rank} (process ${pid ?? "none"}) to go on but it ${how}`);
      onFailure(failure.message);
    }
    stopAfter(grace * 1000);
  };
  signal.addEventListener("abort", () => stop("SIGTERM"));
  for (let local = 0; local < options.processes; local++) workers.push(startWorker(options, local, onEnd));
  await Promise.all(workers.map(({ ended }) => ended));
  clearTimeout(timer);
  if (failure !== undefined) throw failure;
  return code;
}

function startWorker(
  { processes, nodes, nodeRank, host, port, command: [program, ...args], environment, onLine }: Launch,
  local: number,
  onEnd: (rank: number, pid: number | undefined, outcome: number | NodeJS.Signals | Error) => void,
): Worker {
  const rank = nodeRank * processes + local;
  const variables = {
    RANK: rank,
    LOCAL_RANK: local,
    WORLD_SIZE: nodes * processes,
    LOCAL_WORLD_SIZE: processes,
    GROUP_RANK: nodeRank,
    MASTER_ADDR: host,
    MASTER_PORT: port,
  };
  const own = Object.fromEntries(Object.entries(variables).map(([name, value]) => [name, String(value)]));
  // Rank 0 talks to the terminal; of the others whole lines are passed on.
  const isFirst = rank === 0;
  const child = spawn(program, args, {
    stdio: ["ignore", isFirst ? "inherit" : "pipe", isFirst ? "inherit" : "pipe"],
    env: { ...environment, ...own },
  });
  for (const stream of [child.stdout, child.stderr]) {
    if (stream !== null) createInterface({ input: stream }).on("line", (line) => onLine(rank, line));
  }
  const ended = new Promise<void>((resolve) => {
    child.on("error", (error) => {
      onEnd(rank, child.pid, error);
      resolve();
    });
    child.on("close", (code, name) => {
      onEnd(rank, child.pid, code ?? name ?? 1);
      resolve();
    });
  });
  return { rank, child, ended };
}
