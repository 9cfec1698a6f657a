/** Files that are the old ones or the new ones, never a part: written beside their place and renamed into it. */
import { mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/** Writes a file atomically, making its folder. */
export function writeFileAtomic(file: string, contents: string | Uint8Array): void {
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, contents);
    renameSync(temporary, file);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** A value as indented JSON. */
export function writeJson(file: string, value: unknown): void {
  writeFileAtomic(file, `${JSON.stringify(value, null, 2)}\n`);
}

/** Values as JSON, one a line. */
export function writeJsonLines(file: string, values: readonly unknown[]): void {
  writeFileAtomic(file, values.map((value) => `${JSON.stringify(value)}\n`).join(""));
}
