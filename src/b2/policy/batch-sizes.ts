/**
 * What is done when the device runs out of memory: the batch is halved and tried again, once for each kind of batch, and
 * the run says so. From then on the process makes its batches of that kind no larger than this.
 *
 * Results depend on the size of a batch only through rounding, so what was computed before stays.
 */
import { warn, type Progress, type ProgressTask } from "../../base/progress.js";
import { isOutOfMemory } from "../../torch/index.js";

/** The kinds of batches, by the config's keys for their sizes; what each is made of. */
const kinds = {
  "sample.batchSize": "latents",
  "sample.decodeBatchSize": "images to decode",
  "train.microBatch": "pairs to train on",
} as const;

export type BatchKey = keyof typeof kinds;

/** What is to be done in batches. */
export interface BatchedWork {
  readonly key: BatchKey;
  /** The number of the first row. Default: 0. */
  readonly first?: number;
  /** How many rows there are. */
  readonly total: number;
  /** At most so many at once, by the config. */
  readonly size: number;
  readonly progress: Progress;
}

/** The sizes of a policy's batches, see the top of this file. */
export class BatchSizes {
  /** Of the kinds that were halved. */
  readonly #bounds = new Map<BatchKey, number>();

  /** The most rows of a batch whose size was halved, by the config's key. */
  get halved(): Readonly<Partial<Record<BatchKey, number>>> {
    return Object.fromEntries(this.#bounds);
  }

  /** How many rows a batch may have. @param size by the config */
  of(key: BatchKey, size: number): number {
    return Math.min(size, this.#bounds.get(key) ?? size);
  }

  /**
   * Halves the batches of a kind after an error, and says so.
   *
   * @param rows how many the batch had that failed
   * @returns whether to try again: not for another error, for a single row, and for a kind that was halved before
   */
  halve(key: BatchKey, rows: number, error: unknown, progress: Progress): boolean {
    if (!isOutOfMemory(error) || rows < 2 || this.#bounds.has(key)) return false;
    const half = Math.ceil(rows / 2);
    this.#bounds.set(key, half);
    const [reason] = error.message.split("\n", 1);
    const text = `out of memory with ${rows} ${kinds[key]} at once; trying again with ${half}, and no more from here on. Results differ through rounding alone; ${key}=${half} saves the attempt (${reason})`;
    warn(progress, { kind: "out-of-memory", text });
    return true;
  }

  /**
   * Works through rows batch by batch. Where a batch runs out of memory it is made again in halves.
   *
   * @param make may be called again for rows for which it has thrown; reports its progress by `task`
   * @param use gets what was made, and is called once for each batch; its errors end the work
   */
  async each<T>(
    { key, first = 0, total, size, progress }: BatchedWork,
    task: ProgressTask,
    make: (start: number, rows: number, task: Pick<ProgressTask, "advance">) => Promise<T>,
    use: (made: T, start: number, rows: number) => void | Promise<void>,
  ): Promise<void> {
    const end = first + total;
    for (let start = first; start < end;) {
      const rows = Math.min(this.of(key, size), end - start);
      let advanced = 0;
      const advance: ProgressTask["advance"] = (amount, note) => {
        advanced += amount;
        task.advance(amount, note);
      };
      let made: T;
      try {
        made = await make(start, rows, { advance });
      } catch (error) {
        if (!this.halve(key, rows, error, progress)) throw error;
        task.advance(-advanced);
        continue;
      }
      await use(made, start, rows);
      start += rows;
    }
  }
}

/** The smallest number of each key: of the batches that workers have halved. */
export function smallestOf(all: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const smallest: Record<string, number> = {};
  for (const [key, value] of all.flatMap(Object.entries<number>)) {
    smallest[key] = Math.min(value, smallest[key] ?? value);
  }
  return smallest;
}
