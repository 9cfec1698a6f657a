/**
 * Ctrl-C: the first stops the work after its current step, the second ends the process at once. So does the end of the
 * process that started this one with a channel to it, as `b2 compare` does.
 */

import { printError } from "./terminal.js";

/**
 * Runs `work` with a signal that Ctrl-C (or SIGTERM) aborts.
 *
 * @param hint printed when that happens: what is kept, and how to resume
 */
export async function interruptible<T>(hint: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => {
    if (controller.signal.aborted) process.exit(130);
    printError(`\nStopping after this step; press Ctrl-C again to stop at once. ${hint}\n`);
    controller.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  // Listening keeps a channel open, and with it the process.
  if (process.connected) process.on("disconnect", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
    process.off("disconnect", stop);
  }
}
