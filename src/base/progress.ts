/** How long work reports where it is, and how it is asked to stop. The command line draws it; a library may ignore it. */
import { Interrupted } from "./errors.js";

/** One piece of work with a known amount. */
export interface ProgressTask {
  /** `amount` more units are done; `note` is a few words or numbers on how it goes. */
  advance(amount: number, note?: string): void;
  done(): void;
}

export interface Progress {
  /** @param unit what is counted, in the plural: "images", "pairs" */
  task(label: string, total: number, unit: string): ProgressTask;
  /** A line of news between tasks. */
  log(line: string): void;
}

export const silent: Progress = {
  task: () => ({ advance: () => undefined, done: () => undefined }),
  log: () => undefined,
};

/** What every long function is given beside its data. */
export interface RunContext {
  readonly progress: Progress;
  /** Stops the work between two steps, with Interrupted. */
  readonly signal?: AbortSignal | undefined;
}

/** @throws Interrupted when the signal says so */
export function checkInterrupted(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new Interrupted();
}
