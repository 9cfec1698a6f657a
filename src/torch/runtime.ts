/** The process around the tensors: threads, versions, and the event loop. */
import { performance } from "node:perf_hooks";
import { setImmediate } from "node:timers/promises";
import { inWords, TorchError } from "./error.js";
import { native } from "./native.js";

/** Threads that one operator may use. */
export function setNumThreads(threads: number): void {
  if (!Number.isInteger(threads) || threads < 1 || threads > 4096) {
    throw new TorchError(`Expected a whole number from 1 for setNumThreads but received ${inWords(threads)}`);
  }
  native.setNumThreads(threads);
}

export function numThreads(): number {
  return native.numThreads();
}

/** The version of the libtorch that was loaded, as "2.13.0". */
export function torchVersion(): string {
  return native.version();
}

/** How long the event loop may be blocked before yieldToEventLoop() lets it run. */
const MAX_BLOCKED_MS = 30;
let lastYield = performance.now();

/**
 * Lets the event loop run (progress bars, Ctrl-C) if it has not for 30 ms; otherwise resolves at once. Long loops await
 * it between operators.
 */
export async function yieldToEventLoop(): Promise<void> {
  if (performance.now() - lastYield < MAX_BLOCKED_MS) return;
  await setImmediate();
  lastYield = performance.now();
}
