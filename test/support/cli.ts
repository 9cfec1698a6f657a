/** Runs the command line as a process of its own. */
import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { repository } from "./folders.js";

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
