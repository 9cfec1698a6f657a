/**
 * A lock file that lets one process at a time write a file.
 *
 * A process id alone does not show whether the holder is alive: the cache may be shared with other machines, and a
 * restarted container reuses the same ids. So the holder touches the lock file as long as it runs.
 */
import { readFileSync, rmSync, statSync, utimes, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** Milliseconds after which an untouched lock counts as abandoned. */
const LIFE = 10_000;

/** Waits until no living process holds the lock, then takes it. Returns a function that releases it. */
export async function lock(file: string, signal: AbortSignal | undefined): Promise<() => void> {
  while (!take(file)) {
    if (isHeld(file)) await sleep(100, undefined, signal && { signal });
    else rmSync(file, { force: true });
  }
  const alive = setInterval(() => utimes(file, new Date(), new Date(), () => undefined), LIFE / 5).unref();
  return () => {
    clearInterval(alive);
    rmSync(file, { force: true });
  };
}

function take(file: string): boolean {
  try {
    writeFileSync(file, `${process.pid} ${hostname()}`, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

function isHeld(file: string): boolean {
  try {
    if (Date.now() - statSync(file).mtimeMs > LIFE) return false;
    const [, pid, host] = /^(\d+) (.*)$/.exec(readFileSync(file, "utf8")) ?? [];
    if (host === hostname()) process.kill(Number(pid), 0);
    return true;
  } catch (error) {
    // ENOENT: the lock was released just now. Count it as held, so that we do not delete the next holder's lock.
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
