/** Commands that several workers share: they meet, and each tells the others when it stops. */
import { Interrupted } from "../base/errors.js";
import type { Place } from "../distributed/environment.js";
import type { Group } from "../distributed/group.js";
import type { Roles } from "../distributed/roles.js";

export interface WorkerOptions {
  /** Seconds. */
  readonly workerTimeout: number;
  readonly joinTimeout: number;
  /** How many of the workers score and do not train. */
  readonly rewardRanks: number;
}

/**
 * Meets the other workers and does this one's part.
 *
 * @param signal of the command; `work` gets one that also aborts when another worker is lost
 * @throws WorkerError that names the lost rank; whatever `work` throws, of which the others are told
 */
export async function amongWorkers(
  place: Place,
  { workerTimeout: timeout, joinTimeout, rewardRanks }: WorkerOptions,
  signal: AbortSignal,
  work: (roles: Roles, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { openGroup } = await import("../distributed/group.js");
  const { assignRoles } = await import("../distributed/roles.js");
  const { writeErrorFile } = await import("../distributed/error-file.js");
  let workers: Group | undefined;
  try {
    workers = await openGroup(place, { timeout, joinTimeout });
    const roles = await assignRoles(workers, rewardRanks);
    await work(roles, AbortSignal.any([signal, workers.signal]));
    if (roles.training !== workers) await roles.training?.close();
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
