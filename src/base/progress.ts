/** Progress reports of long work, and how it is stopped. The command line draws them; a program may ignore them. */
import { Interrupted } from "./errors.js";

/** One piece of work with a known amount. */
export interface ProgressTask {
  /** Reports `amount` more finished units; `note` is a short status such as the current loss. */
  advance(amount: number, note?: string): void;
  /** Ends the task, finished or not. */
  done(): void;
}

/** Receives progress reports. */
export interface Progress {
  /**
   * Begins a task.
   *
   * @param unit what is counted, in the plural: "images", "pairs"
   */
  task(label: string, total: number, unit: string): ProgressTask;
  /** Prints a line between tasks. */
  log(line: string): void;
  /** Reports that something is probably wrong. Default: a line. */
  warn?(notice: Notice): void;
}

/** A sign that something is probably wrong. */
export interface Notice {
  /** What it is about, in kebab case. */
  readonly kind: string;
  /** A sentence. */
  readonly text: string;
  /** How many stages of a run were finished then. */
  readonly stages?: number;
}

/** Warns by the means that the receiver has. */
export function warn(progress: Progress, notice: Notice): void {
  if (progress.warn === undefined) progress.log(`warning: ${notice.text}`);
  else progress.warn(notice);
}

/** Ignores all reports. */
export const silent: Progress = {
  task: () => ({ advance: () => undefined, done: () => undefined }),
  log: () => undefined,
};

/** What every long-running function takes besides its data. */
export interface RunContext {
  readonly progress: Progress;
  /** When it aborts, the work stops between two steps by throwing Interrupted. */
  readonly signal?: AbortSignal | undefined;
}

/** @throws Interrupted if the signal is aborted */
export function checkInterrupted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new Interrupted();
}
