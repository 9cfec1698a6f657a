/**
 * One process at a time for a file, by a second file beside it.
 *
 * A process id alone does not tell whether its holder lives: the cache may be shared with other machines, and in a
 * container that was killed and started again everybody has the id of before. So the holder touches the lock as long as
 * it lives.
 */
import { readFileSync, rmSync, statSync, utimes, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** Without a sign of life for so many milliseconds a lock is nobody's. */
const LIFE = 10_000;

/** Waits until no living process has the lock, then takes it. Returns what gives it back. */
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
    // ENOENT is a lock that was given back just now: the next to take it must not lose it.
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
