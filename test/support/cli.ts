/** Runs the command line: each command as a process of its own, or several in one. */
import { fork, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { repository } from "./folders.js";
import type { CommandLine } from "./warm-cli.fixture.js";

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts `b2` with these arguments. */
export function startB2(...args: string[]): { child: ChildProcess; outcome: Promise<Outcome> } {
  return start(args, process.env);
}

export const b2 = (...args: string[]): Promise<Outcome> => startB2(...args).outcome;

/** Runs `b2` with variables set besides those of this process. */
export const b2With = (variables: NodeJS.ProcessEnv, ...args: string[]): Promise<Outcome> =>
  start(args, { ...process.env, ...variables }).outcome;

function start(args: readonly string[], env: NodeJS.ProcessEnv): { child: ChildProcess; outcome: Promise<Outcome> } {
  const child = spawn(process.execPath, [join(repository, "bin/b2.js"), ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    env,
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (data: Buffer) => (stdout += data.toString()));
  child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
  const outcome = new Promise<Outcome>((resolveOutcome, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolveOutcome({ code, stdout, stderr }));
  });
  return { child, outcome };
}

let warm: ChildProcess | undefined;
let last: Promise<unknown> = Promise.resolve();

/**
 * Runs `b2` in a process that is kept for the next call, one command after another: a process that loads Node, the
 * command line and libtorch anew takes a second. For what a command does and says; `b2` is for how its process starts,
 * ends and shares the machine. A run that a command works on is held until its process ends, so what goes on with it needs
 * `b2` as well.
 */
export const warmB2 = (...args: string[]): Promise<Outcome> => warmB2With({}, ...args);

/** `warmB2` with variables set besides those of this process. */
export function warmB2With(variables: NodeJS.ProcessEnv, ...args: string[]): Promise<Outcome> {
  const line = { args, env: { ...process.env, ...variables } };
  const outcome = last.then(() => runWarm(line));
  last = outcome.catch(() => undefined);
  return outcome;
}

async function runWarm(line: CommandLine): Promise<Outcome> {
  warm ??= fork(fileURLToPath(new URL("warm-cli.fixture.js", import.meta.url)));
  const done = new AbortController();
  const { signal } = done;
  warm.ref();
  warm.channel!.ref();
  const ended = once(warm, "exit", { signal }).then(([code]) => {
    throw new Error(`Expected an outcome of b2 ${line.args.join(" ")} but its process ended with ${String(code)}`);
  });
  const answered = once(warm, "message", { signal }) as Promise<[Outcome]>;
  warm.send(line);
  try {
    return (await Promise.race([answered, ended]))[0];
  } finally {
    // Between commands it does not keep this process, at whose end it ends.
    warm.unref();
    warm.channel?.unref();
    ended.catch(() => undefined);
    answered.catch(() => undefined);
    done.abort();
  }
}
