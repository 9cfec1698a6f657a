/**
 * A lock file: one process at a time writes a file of the cache, or a run folder.
 *
 * Its text names the holder's process id and host, the space that the id is of, and a token that no other lock has. An
 * id alone does not show whether the holder is alive: the folder may be shared with other machines or containers. So a
 * thread of the holder touches the file as long as the process runs, even while libtorch blocks it.
 *
 * A lock file is made only where there is none, and removed only by whoever holds the file beside it (`.removing`) and
 * has read there what it removes. So of two processes that find the same abandoned lock, the slower one cannot remove
 * the lock that the faster one has taken since.
 */
import { randomUUID } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";

/** Milliseconds after which an untouched lock counts as abandoned. */
const LIFE = 10_000;

/** Who holds a lock. */
export interface Holder {
  readonly pid: number;
  readonly host: string;
}

/** A lock that this process holds. */
export interface Lock {
  /** Whether it is still this one: a process that was stopped for long may have lost it to another. */
  isHeld(): boolean;
  /** Removes the file, unless another process has taken the lock over. */
  release(): void;
}

/** Waits until no living process holds the lock, then takes it. */
export async function lock(file: string, signal?: AbortSignal): Promise<Lock> {
  for (;;) {
    const taken = tryLock(file);
    if ("release" in taken) return taken;
    await sleep(100, undefined, signal && { signal });
  }
}

/** Takes the lock, unless a living process holds it: then returns who. The folder of the file must exist. */
export function tryLock(file: string): Lock | Holder {
  const text = `${process.pid} ${hostname()} ${idSpace()} ${randomUUID()}`;
  while (!create(file, text)) {
    const found = read(file);
    if (found === undefined) continue; // released just now
    if (isAlive(found) || !removeIf(file, found.text)) return holderOf(found.text) ?? UNKNOWN;
  }
  return hold(file, text);
}

/** Who holds the lock now; undefined if nobody does. Changes nothing. */
export function holderOfLock(file: string): Holder | undefined {
  const found = read(file);
  return found !== undefined && isAlive(found) ? (holderOf(found.text) ?? UNKNOWN) : undefined;
}

/** The holder of a file whose text another process is just writing. */
const UNKNOWN: Holder = { pid: 0, host: "unknown" };

/** Texts of the locks that this process holds. */
const own = new Set<string>();

function hold(file: string, text: string): Lock {
  const heart = new Worker(new URL("./heartbeat.js", import.meta.url), {
    workerData: { file, text, every: LIFE / 5 },
    execArgv: [],
  });
  heart.unref();
  own.add(text);
  const release = (): void => {
    if (!own.delete(text)) return;
    process.off("exit", release);
    void heart.terminate();
    try {
      removeIf(file, text);
    } catch {
      // Its folder is gone, or cannot be written to any more; nobody takes the lock for held without a heartbeat.
    }
  };
  process.on("exit", release);
  return { isHeld: () => own.has(text) && read(file)?.text === text, release };
}

/** Names the processes among which an id is unique: containers have their own, even where they share the host's name. */
function idSpace(): string {
  try {
    return readlinkSync("/proc/self/ns/pid");
  } catch {
    return "-";
  }
}

/** Creates a file that does not exist. @returns whether it could */
function create(file: string, text: string): boolean {
  try {
    writeFileSync(file, text, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** What a lock file says, and when it was touched last. */
interface Found {
  readonly text: string;
  readonly touched: number;
}

function read(file: string): Found | undefined {
  try {
    // Opened first: that is when a network file system looks for a newer time.
    const fd = openSync(file, "r");
    try {
      return { text: readFileSync(fd, "utf8"), touched: fstatSync(fd).mtimeMs };
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

function holderOf(text: string): Holder | undefined {
  const [, pid, host] = /^(\d+) (\S+)/.exec(text) ?? [];
  return host === undefined ? undefined : { pid: Number(pid), host };
}

function isAlive({ text, touched }: Found): boolean {
  if (Date.now() - touched > LIFE) return false;
  const [pid, host, space] = text.split(" ");
  if (host !== hostname() || space !== idSpace()) return true;
  // A process that had this one's id before is gone.
  if (Number(pid) === process.pid) return own.has(text);
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** Removes a lock file that has this text. @returns whether nobody else was about to */
function removeIf(file: string, text: string): boolean {
  const removing = `${file}.removing`;
  if (!create(removing, "")) {
    const begun = statSync(removing, { throwIfNoEntry: false })?.mtimeMs ?? Date.now();
    if (Date.now() - begun <= LIFE) return false;
    // Left by a process that died within the few lines below.
    rmSync(removing, { force: true });
    return removeIf(file, text);
  }
  try {
    if (read(file)?.text === text) rmSync(file, { force: true });
    return true;
  } finally {
    rmSync(removing, { force: true });
  }
}
