/** `b2 launch`: starts several workers on this host, which run one command together. */
import { availableParallelism } from "node:os";
import { InvalidArgumentError, type Command } from "commander";
import { InputError } from "../../base/errors.js";
import { printable, show } from "../../base/show.js";
import type { LaunchRequest } from "../../distributed/environment.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { printError } from "../terminal.js";

interface LaunchOptions {
  readonly processes?: number;
  readonly nodes?: number;
  readonly nodeRank?: number;
  readonly master?: string;
  readonly workerTimeout: number;
}

export function addLaunchCommand(program: Command): void {
  program
    .command("launch <command...>")
    .description(
      "Start several workers that run one training together. On several hosts, start this on each (docs/distributed.md).",
    )
    .option(
      "--processes <n>",
      "workers on this host, and on every other; default: one for each card, or PET_NPROC_PER_NODE",
      whole(1),
    )
    .option("--nodes <n>", "hosts; default 1, or PET_NNODES", whole(1))
    .option("--node-rank <n>", "the number of this host, from 0; default: PET_NODE_RANK", whole(0))
    .option("--master <host:port>", "where the first host can be reached; default: PET_MASTER_ADDR and PET_MASTER_PORT")
    .option(
      "--worker-timeout <seconds>",
      "how long a worker may give no sign of life, and the others get to stop",
      whole(1),
      30,
    )
    .addHelpText(
      "after",
      example(
        "b2 launch --processes 4 -- run runs/mine --preset sd",
        "b2 launch --processes 8 --nodes 2 --node-rank 0 --master node1:29500 -- run runs/mine --preset sd",
      ),
    )
    .action(async (command: readonly string[], options: LaunchOptions) => {
      if (command[0] !== "run") {
        throw new InputError(`Expected the command run for several workers but received ${show(command[0])}`);
      }
      const { launchFrom } = await import("../../distributed/environment.js");
      const { launch } = await import("../../distributed/launch.js");
      const place = await placeOfHost(options, launchFrom(process.env));
      const threads = Math.max(1, Math.floor(availableParallelism() / place.processes));
      const code = await interruptible("The workers stop after their step.", (signal) =>
        launch(
          {
            ...place,
            command: [process.execPath, process.argv[1]!, ...command, `--worker-timeout=${options.workerTimeout}`],
            environment: { ...process.env, B2_THREADS: process.env["B2_THREADS"] ?? String(threads) },
            grace: options.workerTimeout,
            onLine: (rank, line) => printError(`[rank ${rank}] ${printable(line)}\n`),
            onFailure: (sentence) => printError(`b2 launch: ${sentence}\n`),
          },
          signal,
        ),
      );
      process.exitCode = code;
    });
}

type HostPlace = Record<"processes" | "nodes" | "nodeRank" | "port", number> & { readonly host: string };

/** Options first, then Kubeflow's variables. @throws InputError where several hosts lack something */
async function placeOfHost(options: LaunchOptions, request: LaunchRequest | undefined): Promise<HostPlace> {
  const processes = options.processes ?? request?.processes ?? (await cards());
  const nodes = options.nodes ?? request?.nodes ?? 1;
  if (nodes === 1) return { processes, nodes, nodeRank: 0, host: "127.0.0.1", port: await freePort() };
  const nodeRank = options.nodeRank ?? request?.nodeRank;
  if (nodeRank === undefined || nodeRank >= nodes) {
    throw new InputError(`Expected 0 to ${nodes - 1} for --node-rank but received ${nodeRank ?? "none"}`);
  }
  const master = options.master === undefined ? undefined : /^(.+):(\d+)$/.exec(options.master);
  if (master === null) {
    throw new InputError(
      `Expected a host and a port such as node1:29500 for --master but received ${show(options.master)}`,
    );
  }
  const host = master?.[1] ?? request?.host;
  if (host === undefined)
    throw new InputError("Expected --master, the first host's address and port, but received none");
  return { processes, nodes, nodeRank, host, port: Number(master?.[2] ?? request?.port) };
}

/** One worker for each card. */
async function cards(): Promise<number> {
  const { deviceCount } = await import("../../torch/index.js");
  const count = deviceCount("cuda");
  if (count > 0) return count;
  throw new InputError("Expected --processes, how many workers to start, but received none, and there is no card");
}

/** A port of this host that nothing listens on. */
async function freePort(): Promise<number> {
  const { createServer } = await import("node:net");
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => resolve(typeof address === "object" && address !== null ? address.port : 0));
    });
  });
}

/** Parses a whole number from `least`. */
const whole =
  (least: number) =>
  (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${least}.`);
  };
