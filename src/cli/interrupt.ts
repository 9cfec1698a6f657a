/** Ctrl-C: the first asks the work to stop after its step, the second ends the process. */

/**
 * Runs `work` with a signal that Ctrl-C (or SIGTERM) aborts.
 *
 * @param hint what to say when that happens
 */
export async function interruptible<T>(hint: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = (): void => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write(`\nStopping after this step; again to stop at once. ${hint}\n`);
    controller.abort();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  try {
    return await work(controller.signal);
  } finally {
    process.off("SIGINT", stop);
    process.off("SIGTERM", stop);
  }
}
