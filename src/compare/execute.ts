/**
 * Executes the runs of a comparison: each is a `b2 run` in a process of its own, several at once. What they print goes
 * to a log beside the run's folder.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, openSync } from "node:fs";
import { dirname, join } from "node:path";
import { Interrupted } from "../base/errors.js";
import { makeFolder, readText, writeJson } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";
import { hasBaseEvaluation } from "../eval/base-evaluation.js";
import { isFinished, type PlannedRun } from "./plan.js";

/** Where a run stands. */
export type RunState = "waiting" | "running" | "finished" | "failed";

/** Called whenever a run begins or ends. */
export type OnState = (run: PlannedRun, state: RunState) => void;

/** Bounds and reports of the execution. */
export interface ExecuteOptions {
  /** How many runs go at once. */
  readonly jobs: number;
  readonly onState?: OnState;
  /** When it aborts, all runs stop after their current step. */
  readonly signal?: AbortSignal | undefined;
}

/** The log of a run. */
export const logFile = ({ folder }: Pick<PlannedRun, "folder">): string => `${folder}.log`;

/**
 * Executes what is unfinished, resuming what is interrupted. A run that fails does not stop the others.
 *
 * @returns the runs that failed
 * @throws Interrupted when the signal aborts, after all processes have ended
 */
export async function executeRuns(
  runs: readonly PlannedRun[],
  { jobs, onState = () => undefined, signal }: ExecuteOptions,
): Promise<PlannedRun[]> {
  const waiting = runs.filter((run) => !isFinished(run));
  const failed: PlannedRun[] = [];
  const isStopped = (): boolean => signal?.aborted === true;
  const work = async (): Promise<void> => {
    for (let run = waiting.shift(); run !== undefined; run = waiting.shift()) {
      if (isStopped()) return;
      onState(run, "running");
      const succeeded = await execute(run, runs, signal);
      if (isStopped()) {
        onState(run, isFinished(run) ? "finished" : "waiting");
        return;
      }
      onState(run, succeeded ? "finished" : "failed");
      if (!succeeded) failed.push(run);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
  if (isStopped()) throw new Interrupted();
  return failed;
}

/** The last lines of a run's log, for the message about its failure. */
export function logTail(run: PlannedRun, lines = 5): string {
  const file = logFile(run);
  return existsSync(file) ? readText(file).trimEnd().split("\n").slice(-lines).join("\n") : "";
}

/** Runs one process to its end. @returns whether it exited with code 0 */
async function execute(run: PlannedRun, all: readonly PlannedRun[], signal: AbortSignal | undefined): Promise<boolean> {
  const { folder, config } = run;
  const values = `${folder}.json`;
  makeFolder(dirname(folder));
  writeJson(values, config);
  const log = openSync(logFile(run), "a");
  // Evaluating the base model again would give the same numbers.
  const before = all.find((other) => other !== run && hasBaseEvaluation(other.folder, config))?.folder;
  const args = ["run", folder, "--config", values, ...(before === undefined ? [] : ["--before", before])];
  // A group of its own, so that Ctrl-C reaches it once; the channel tells it when this process is gone.
  const child = spawn(process.execPath, [join(packageRoot(), "bin/b2.js"), ...args], {
    stdio: ["ignore", log, log, "ipc"],
    detached: true,
  });
  closeSync(log);
  const stop = (): void => void child.kill("SIGINT");
  signal?.addEventListener("abort", stop);
  if (signal?.aborted === true) stop();
  try {
    return (await ended(child)) === 0;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

const ended = (child: ChildProcess): Promise<number | null> =>
  new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => resolve(code));
  });
