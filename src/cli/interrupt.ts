/**
 * Ctrl-C: the first stops the work after its current step, the second ends the process at once. So do SIGTERM, by which
 * schedulers and `kill` end a process, and SIGHUP, by which a terminal that is closed does. The end of the process that
 * started this one with a channel to it, as `b2 compare` does, counts as well.
 */

import { printError } from "./terminal.js";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** A terminal that is closed may send SIGHUP twice, by the kernel and by the shell. Within so long they are one. */
const HANGUP_MS = 1000;

/**
 * Runs `work` with a signal that Ctrl-C, SIGTERM or SIGHUP aborts.
 *
 * @param hint printed when that happens: what is kept, and how to resume
 */
export async function interruptible<T>(hint: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let hungUpAt = -Infinity;
  const stop = (name: NodeJS.Signals | "disconnect"): void => {
    const isSame = name === "SIGHUP" && performance.now() - hungUpAt < HANGUP_MS;
    if (name === "SIGHUP") hungUpAt = performance.now();
    if (isSame) return;
    if (controller.signal.aborted) process.exit(130);
    const again = name === "SIGTERM" || name === "SIGHUP" ? `a second ${name} stops` : "press Ctrl-C again to stop";
    printError(`\nStopping after this step; ${again} at once. ${hint}\n`);
    controller.abort();
  };
  const disconnected = (): void => stop("disconnect");
  for (const name of SIGNALS) process.on(name, stop);
  // Listening keeps a channel open, and with it the process.
  if (process.connected) process.on("disconnect", disconnected);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of SIGNALS) process.off(name, stop);
    process.off("disconnect", disconnected);
  }
}
