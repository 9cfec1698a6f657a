/** The thread that touches a lock file as long as its process runs, see lock.ts. */
import { readFileSync, utimesSync } from "node:fs";
import { workerData } from "node:worker_threads";

/** What the thread is started with. */
export interface Heartbeat {
  readonly file: string;
  /** Of the lock; a file with another text is not this process's any more. */
  readonly text: string;
  /** In milliseconds. */
  readonly every: number;
}

if (workerData !== null) {
  const { file, text, every } = workerData as Heartbeat;
  setInterval(() => {
    try {
      if (readFileSync(file, "utf8") === text) utimesSync(file, new Date(), new Date());
    } catch {
      // It cannot be touched now, perhaps at the next beat.
    }
  }, every);
}
