/**
 * Reads and writes files: text must be UTF-8, JSON is checked, writes are atomic, and what the system refuses becomes a
 * sentence with the file and what to do.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { InputError } from "./errors.js";
import { show } from "./show.js";

/** The InputError subclass that a reader throws. */
export type ErrorClass = new (message: string, options?: ErrorOptions) => InputError;

export type JsonObject = Record<string, unknown>;

export const isJsonObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Checks that a path is a regular file, before it is opened: opening a named pipe waits for ever, without an ear for
 * signals, and a device never ends. The pipes of a shell, `<(...)` and `/dev/stdin`, have somebody who writes.
 *
 * @throws an `ErrorOf` naming the path when it is something else; a system error when there is nothing
 */
export function expectFile(path: string, ErrorOf: ErrorClass = InputError): void {
  const stat = statSync(path);
  if (stat.isFile() || (stat.isFIFO() && /^\/(dev|proc\/self)\/(fd\/\d+|stdin)$/.test(path))) return;
  const what = stat.isDirectory() ? "a folder" : stat.isFIFO() ? "a pipe" : "a device or a socket";
  throw new ErrorOf(`${path}: Expected a file but received ${what}`);
}

/**
 * Reads a text file. Drops a byte order mark.
 *
 * @throws an `ErrorOf` naming the file when it cannot be read or is not UTF-8
 */
export function readText(file: string, ErrorOf: ErrorClass = InputError): string {
  try {
    expectFile(file, ErrorOf);
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    if (cause instanceof InputError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    const absent = code === "ENOENT" ? "no such file" : code === "EACCES" ? "permission is denied" : message;
    const reason = cause instanceof TypeError ? "it is not UTF-8 text" : absent;
    throw new ErrorOf(`${file}: Expected a readable text file but received: ${reason}`, { cause });
  }
}

/**
 * Parses JSON.
 *
 * @param where what to name in the error: a file, or a line of it
 * @throws an `ErrorOf` naming `where`, also for values that are nested too deeply to parse
 */
export function parseJson(text: string, where: string, ErrorOf: ErrorClass = InputError): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ErrorOf(`${where}: Expected JSON but received: ${(cause as Error).message}`, { cause });
  }
  if (isNestedTooDeep(value)) {
    throw new ErrorOf(`${where}: Expected values nested at most ${MOST_NESTED} deep but received more`);
  }
  return value;
}

/** Deeper than any config, and shallow enough for every function that calls itself on what is inside. */
export const MOST_NESTED = 200;

/** Whether objects and lists are nested more than MOST_NESTED deep. */
export function isNestedTooDeep(value: unknown): boolean {
  let level = [value];
  for (let depth = 0; depth <= MOST_NESTED && level.length > 0; depth++) {
    level = level.flatMap((one) => (typeof one === "object" && one !== null ? (Object.values(one) as unknown[]) : []));
  }
  return level.length > 0;
}

/** @throws an `ErrorOf` naming `where` when the text is not a JSON object */
export function parseJsonObject(text: string, where: string, ErrorOf: ErrorClass = InputError): JsonObject {
  const value = parseJson(text, where, ErrorOf);
  if (isJsonObject(value)) return value;
  throw new ErrorOf(`${where}: Expected a JSON object but received ${show(value)}`);
}

/** @throws an `ErrorOf` naming the file when it is missing, or not a JSON object */
export function readJsonObject(file: string, ErrorOf: ErrorClass = InputError): JsonObject {
  return parseJsonObject(readText(file, ErrorOf), file, ErrorOf);
}

/** The objects of a JSON Lines file. @throws an `ErrorOf` naming the file and the line */
export function readJsonLines(file: string, ErrorOf: ErrorClass = InputError): JsonObject[] {
  return readText(file, ErrorOf)
    .split("\n")
    .map((line, i) => [line, `line ${i + 1} of ${file}`] as const)
    .filter(([line]) => line !== "")
    .map(([line, where]) => parseJsonObject(line, where, ErrorOf));
}

/** Why the system refuses to write, and what to do. */
const REFUSALS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full; make room and repeat the command",
  EDQUOT: "the disk quota is used up; make room and repeat the command",
  EFBIG: "it would be larger than is allowed here (ulimit -f, or the file system)",
  EROFS: "its file system is read-only; choose another place",
  EACCES: "permission is denied; choose another place, or change the permissions",
  EPERM: "permission is denied; choose another place, or change the permissions",
  ENOENT: "its folder does not exist and cannot be made there",
  ENOTDIR: "a part of its path is a file, not a folder",
  EISDIR: "it is a folder",
  EEXIST: "it is a file, not a folder",
  ENAMETOOLONG: "its name is too long",
  EIO: "the disk reports an error",
};

/** What to throw where `path` could not be written: an InputError if the system refused, else the cause itself. */
export function writeFailure(path: string, cause: unknown): unknown {
  const { code } = cause as NodeJS.ErrnoException;
  const reason = code === undefined ? undefined : REFUSALS[code];
  return reason === undefined ? cause : new InputError(`Expected to write ${path} but ${reason}`, { cause });
}

/**
 * Creates a folder, and those above it, unless it exists.
 *
 * @throws InputError naming the folder when the system refuses
 */
export function makeFolder(folder: string): void {
  // Not by mkdirSync's `recursive`, which tries for ever where a folder exists but takes no others, as /proc does.
  const missing: string[] = [];
  try {
    for (let at = resolve(folder); statSync(at, { throwIfNoEntry: false }) === undefined; at = dirname(at)) {
      missing.push(at);
    }
    for (const at of missing.reverse()) makeOne(at);
    if (!statSync(folder).isDirectory()) mkdirSync(folder); // which says that it is a file
  } catch (cause) {
    throw writeFailure(folder, cause);
  }
}

/** Another process may make the same folder at the same time. The new one outlasts a power cut. */
function makeOne(folder: string): void {
  try {
    mkdirSync(folder);
    syncFolder(dirname(folder));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST" || !existsSync(folder)) throw error;
  }
}

/**
 * Writes a file atomically: to a temporary file beside it, synced to disk, then renamed. Creates its folder.
 *
 * @param contents text, bytes, or a function that writes to the open file
 * @throws InputError naming the file when the system refuses, such as on a full disk; nothing is left of it then
 */
export function writeFileAtomic(file: string, contents: string | Uint8Array | ((fd: number) => void)): void {
  makeFolder(dirname(file));
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    const fd = openSync(temporary, "w");
    try {
      if (typeof contents === "function") contents(fd);
      else writeFileSync(fd, contents);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw writeFailure(file, error);
  }
}

/**
 * Writes to disk which files a folder has: a rename, a new name or a removal is not lasting before that.
 *
 * Does nothing where folders cannot be synced, as on some network file systems, or not be read.
 */
export function syncFolder(folder: string): void {
  let fd: number | undefined;
  try {
    fd = openSync(folder, "r");
    fsyncSync(fd);
  } catch (error) {
    const { code = "" } = error as NodeJS.ErrnoException;
    if (!["EINVAL", "EPERM", "EACCES", "ENOTSUP", "EISDIR"].includes(code)) throw error;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** `syncFolder` for a folder and all folders in it; none if it does not exist. */
export function syncFolders(folder: string): void {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) syncFolders(join(folder, entry.name));
  }
  syncFolder(folder);
}

/** Writes a value as indented JSON, atomically. */
export function writeJson(file: string, value: unknown): void {
  writeFileAtomic(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** Writes values as JSON Lines, one per line, atomically. */
export function writeJsonLines(file: string, values: readonly unknown[]): void {
  writeFileAtomic(file, jsonLines(values));
}

/** Values as JSON Lines. */
export const jsonLines = (values: readonly unknown[]): string =>
  values.map((value) => `${JSON.stringify(value)}\n`).join("");
