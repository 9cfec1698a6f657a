/**
 * Reads and writes files: text must be UTF-8, JSON is checked, and writes are atomic.
 */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { InputError } from "./errors.js";
import { show } from "./show.js";

/** The InputError subclass that a reader throws. */
export type ErrorClass = new (message: string, options?: ErrorOptions) => InputError;

export type JsonObject = Record<string, unknown>;

export const isJsonObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Reads a text file. Drops a byte order mark.
 *
 * @throws an `ErrorOf` naming the file when it cannot be read or is not UTF-8
 */
export function readText(file: string, ErrorOf: ErrorClass = InputError): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(readFileSync(file));
  } catch (cause) {
    const reason = cause instanceof TypeError ? "it is not UTF-8 text" : (cause as Error).message;
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
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ErrorOf(`${where}: Expected JSON but received: ${(cause as Error).message}`, { cause });
  }
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

/**
 * Writes a file atomically: to a temporary file beside it, synced to disk, then renamed. Creates its folder.
 *
 * @param contents text, bytes, or a function that writes to the open file
 */
export function writeFileAtomic(file: string, contents: string | Uint8Array | ((fd: number) => void)): void {
  mkdirSync(dirname(file), { recursive: true });
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
    throw error;
  }
}

/** Writes a value as indented JSON, atomically. */
export function writeJson(file: string, value: unknown): void {
  writeFileAtomic(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** Writes values as JSON Lines, one per line, atomically. */
export function writeJsonLines(file: string, values: readonly unknown[]): void {
  writeFileAtomic(file, values.map((value) => `${JSON.stringify(value)}\n`).join(""));
}
