/** Commands that several workers share: they meet, and each tells the others when it stops. */
import { Interrupted } from "../base/errors.js";
import type { Place } from "../distributed/environment.js";
import type { Group } from "../distributed/group.js";

export interface WorkerOptions {
  /** Seconds. */
  readonly workerTimeout: number;
  readonly joinTimeout: number;
}

/**
 * Meets the other workers and does this one's part.
 *
 * @param signal of the command; `work` gets one that also aborts when another worker is lost
 * @throws WorkerError that names the lost rank; whatever `work` throws, of which the others are told
 */
export async function amongWorkers(
  place: Place,
  { workerTimeout: timeout, joinTimeout }: WorkerOptions,
  signal: AbortSignal,
  work: (workers: Group, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { openGroup } = await import("../distributed/group.js");
  const { writeErrorFile } = await import("../distributed/error-file.js");
  let workers: Group | undefined;
  try {
    workers = await openGroup(place, { timeout, joinTimeout });
    await work(workers, AbortSignal.any([signal, workers.signal]));
    await workers.close();
  } catch (error) {
    // All workers are told to stop at once, and each of them might blame another.
    const reason = signal.aborted ? new Interrupted() : (workers?.lost ?? error);
    const message = reason instanceof Error ? reason.message : String(reason);
    writeErrorFile(message);
    if (workers?.lost === undefined) await workers?.fail(message.split("\n", 1)[0]!);
    throw reason;
  }
}
