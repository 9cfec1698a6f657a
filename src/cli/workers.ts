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
 * @param prepare what this worker does before it meets the others
 * @throws WorkerError that names the lost rank; whatever `prepare` and `work` throw, of which the others are told
 */
export async function amongWorkers<T>(
  place: Place,
  { workerTimeout: timeout, joinTimeout, rewardRanks }: WorkerOptions,
  signal: AbortSignal,
  prepare: () => Promise<T>,
  work: (prepared: T, roles: Roles, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { openGroup } = await import("../distributed/group.js");
  const { assignRoles } = await import("../distributed/roles.js");
  const { writeErrorFile } = await import("../distributed/error-file.js");
  let workers: Group | undefined;
  try {
    const prepared = await prepare().catch(async (error: unknown) => {
      await openGroup(place, { timeout, joinTimeout, refusal: firstLineOf(error) }).catch(() => undefined);
      throw error;
    });
    workers = await openGroup(place, { timeout, joinTimeout });
    const roles = await assignRoles(workers, rewardRanks);
    await work(prepared, roles, AbortSignal.any([signal, workers.signal]));
    if (roles.training !== workers) await roles.training?.close();
    await workers.close();
  } catch (error) {
    // All workers are told to stop at once, and each of them might blame another.
    const reason = signal.aborted ? new Interrupted() : (workers?.lost ?? error);
    writeErrorFile(messageOf(reason));
    if (workers?.lost === undefined) await workers?.fail(firstLineOf(reason));
    throw reason;
  }
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const firstLineOf = (error: unknown): string => messageOf(error).split("\n", 1)[0]!;
