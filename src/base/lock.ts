/**
 * A lock file: one process at a time writes a file of the cache, or a run folder.
 *
 * Its text names the holder: process id and host for people; the system it runs on (which boot of which kernel, and the
 * space that the id is of), when it started there, and a token that no other lock has.
 *
 * On the same system, whether the holder lives is known: the process of this id that started then is there, or not. No
 * clock counts, and a process that is stopped keeps its lock.
 *
 * Elsewhere (another host of a network file system, another container, before a reboot) only signs of life count: a thread
 * of the holder touches the file every two seconds as long as the process runs, even while libtorch blocks it. The lock
 * holds as long as the file looks touched within a minute. If not, clocks may differ or have jumped, so whoever wants it
 * watches the file for ten seconds of its own, and takes it only if nothing touches it. Assumed is that the holder's
 * process, and its way to the disk, do not stop for longer and then go on. One that did finds out before it finishes
 * anything, see `isHeld`.
 *
 * A lock file appears with its whole text, where there is none, and is removed only by whoever holds the file beside it
 * (`.removing`) and has read there what it removes. So of two processes that find the same abandoned lock, the slower one
 * cannot remove the lock that the faster one has taken since.
 */
import { randomUUID } from "node:crypto";
import { closeSync, fstatSync, linkSync, openSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";

/** How long a lock of a process elsewhere holds, in milliseconds. */
export interface Patience {
  /** It counts as held if it looks touched within this time, by the clocks. */
  readonly fresh: number;
  /** If it does not, it counts as abandoned when nothing touches it for so long, by the watcher's own count. */
  readonly silence: number;
}

const PATIENCE: Patience = { fresh: 60_000, silence: 10_000 };

/** Milliseconds between two touches. */
const BEAT = 2000;

/** Milliseconds between two looks at a lock. */
const LOOK = 100;

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
export async function lock(file: string, signal?: AbortSignal, patience: Patience = PATIENCE): Promise<Lock> {
  const text = ownText();
  const watch = new Watch(patience);
  for (;;) {
    if (attempt(file, text, watch) === "taken") return hold(file, text);
    await sleep(LOOK, undefined, signal && { signal });
  }
}

/**
 * Takes the lock, unless a living process holds it: then returns who. The folder of the file must exist.
 *
 * Blocks for `patience.silence` where only watching can tell whether a process elsewhere still lives.
 */
export function tryLock(file: string, patience: Patience = PATIENCE): Lock | Holder {
  const text = ownText();
  const watch = new Watch(patience);
  for (;;) {
    const outcome = attempt(file, text, watch);
    if (outcome === "taken") return hold(file, text);
    if (outcome !== "unclear") return outcome;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LOOK);
  }
}

/** Who holds the lock now, as far as one look can tell; undefined if nobody does. Changes nothing. */
export function holderOfLock(file: string): Holder | undefined {
  const found = read(file);
  if (found === undefined || new Watch().judge(file, found) !== "alive") return undefined;
  return holderOf(found.text) ?? UNKNOWN;
}

/** Whether this system knows that the process of a lock is gone. One of another system counts as there. Changes nothing. */
export function isAbandoned(file: string): boolean {
  const found = read(file);
  return found !== undefined && livesHere(found.text) === false;
}

/** Whether there is a lock file. Its process may be dead. */
export const isLockThere = (file: string): boolean => read(file) !== undefined;

/** Tries once. @returns who holds it otherwise; "unclear" where only time can tell */
function attempt(file: string, text: string, watch: Watch): "taken" | "unclear" | Holder {
  for (;;) {
    const found = read(file);
    if (found === undefined) {
      if (create(file, text)) return "taken";
      continue; // another was faster
    }
    const state = watch.judge(file, found);
    if (state === "unclear") return state;
    const removed = state === "dead" && removeIf(file, found.text, watch);
    if (removed === "unclear") return removed;
    if (removed !== "removed") return holderOf(found.text) ?? UNKNOWN;
  }
}

/** The holder of a file whose text another process is just writing. */
const UNKNOWN: Holder = { pid: 0, host: "unknown" };

/** Texts of the locks that this process holds. */
const own = new Set<string>();

function hold(file: string, text: string): Lock {
  const heart = new Worker(new URL("./heartbeat.js", import.meta.url), {
    workerData: { file, text, every: BEAT },
    execArgv: [],
  });
  heart.unref();
  own.add(text);
  const release = (): void => {
    if (!own.delete(text)) return;
    process.off("exit", release);
    void heart.terminate();
    try {
      removeIf(file, text, new Watch());
    } catch {
      removeAnyway(file, text);
    }
  };
  process.on("exit", release);
  return { isHeld: () => own.has(text) && read(file)?.text === text, release };
}

/** Where no file can be made beside the lock, as on a full disk, deleting may still be possible. */
function removeAnyway(file: string, text: string): void {
  try {
    if (read(file)?.text === text) rmSync(file, { force: true });
  } catch {
    // Its folder is gone, or cannot be written to any more; nobody takes the lock of a dead process for held.
  }
}

/** What this process writes into a lock. */
const ownText = (): string =>
  [process.pid, hostname(), ownSystem(), startOf(process.pid)?.since ?? UNKNOWN_WORD, randomUUID()].join(" ");

const UNKNOWN_WORD = "-";

/** The boot of a kernel, and the space within which a process id is unique: containers have their own. */
function ownSystem(): string {
  try {
    const boot = readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    return `${boot}/${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return UNKNOWN_WORD;
  }
}

/** When a process started, in clock ticks since the boot, and whether it is only waiting to be buried. */
function startOf(pid: number): { since: string; isDead: boolean } | undefined {
  try {
    // proc(5): the name in brackets may hold anything; the state is field 3, the start field 22.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { since: fields[19]!, isDead: /^[ZX]/.test(fields[0]!) };
  } catch {
    return undefined;
  }
}

/** Makes a file with a text where there is none, both at once. @returns whether it could */
function create(file: string, text: string): boolean {
  const temporary = `${file}.${text.split(" ").at(-1)}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text);
    linkSync(temporary, file);
    return true;
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    // Links are not known here; or a process that mended the folder has removed the temporary file.
    if (["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV", "ENOENT"].includes(code)) {
      return createEmptyFirst(file, text);
    }
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

function createEmptyFirst(file: string, text: string): boolean {
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

/** Whether the process of a lock lives; undefined where this system cannot know. */
function livesHere(text: string): boolean | undefined {
  const [pid, , system, since] = text.split(" ");
  if (system !== ownSystem() || system === UNKNOWN_WORD || since === UNKNOWN_WORD) return undefined;
  if (Number(pid) === process.pid) return own.has(text);
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
  }
  // Another process may have got its id since. Where /proc hides the processes of others, signs of life must do.
  const start = startOf(Number(pid));
  return start === undefined ? undefined : start.since === since && !start.isDead;
}

/** Judges locks by what it sees of them over time. */
class Watch {
  readonly #patience: Patience;
  /** By file: what was seen there last, and since when, in milliseconds that no clock sets. */
  readonly #seen = new Map<string, { sign: string; since: number }>();

  constructor(patience: Patience = PATIENCE) {
    this.#patience = patience;
  }

  judge(file: string, { text, touched }: Found): "alive" | "dead" | "unclear" {
    const lives = livesHere(text);
    if (lives !== undefined) return lives ? "alive" : "dead";
    const sign = `${touched} ${text}`;
    const now = performance.now();
    const seen = this.#seen.get(file);
    if (seen?.sign !== sign) this.#seen.set(file, { sign, since: now });
    if (seen !== undefined && seen.sign !== sign) return "alive";
    if (Math.abs(Date.now() - touched) <= this.#patience.fresh) return "alive";
    return seen !== undefined && now - seen.since > this.#patience.silence ? "dead" : "unclear";
  }
}

/** Removes a lock file that has this text, unless another process is about to. */
function removeIf(file: string, text: string, watch: Watch): "removed" | "busy" | "unclear" {
  const removing = `${file}.removing`;
  const mine = ownText();
  own.add(mine);
  try {
    while (!create(removing, mine)) {
      const left = read(removing);
      const state = left === undefined ? "dead" : watch.judge(removing, left);
      if (state !== "dead") return state === "alive" ? "busy" : state;
      // Left by a process that died within the few lines below.
      rmSync(removing, { force: true });
    }
    try {
      if (read(file)?.text === text) rmSync(file, { force: true });
      return "removed";
    } finally {
      rmSync(removing, { force: true });
    }
  } finally {
    own.delete(mine);
  }
}
