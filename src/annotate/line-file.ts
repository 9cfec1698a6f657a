/**
 * A file of JSON Lines that one process appends to while others read it. A line counts once its line break is there: a
 * line that a crash or a full disk has cut off is overlooked, and cut away before the next one is written.
 */
import { closeSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync, statSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import type { z } from "zod";
import { InputError } from "../base/errors.js";
import { jsonLines, makeFolder, parseJson, writeFailure } from "../base/files.js";
import { show } from "../base/show.js";

const LINE_BREAK = 0x0a;

export class LineFile<T> {
  readonly file: string;
  readonly #schema: z.ZodType<T>;
  #lines: readonly T[] = [];
  /** Which file was read, and how many bytes of it: another process may replace it. */
  #inode = 0;
  #bytes = 0;

  constructor(file: string, schema: z.ZodType<T>) {
    this.file = file;
    this.#schema = schema;
  }

  /**
   * All lines: the same array as before unless there are new ones. None if there is no file.
   *
   * @throws InputError naming the file and a line that is damaged
   */
  lines(): readonly T[] {
    const stat = statSync(this.file, { throwIfNoEntry: false });
    if (stat === undefined || stat.ino !== this.#inode || stat.size < this.#bytes) this.#forget(stat?.ino ?? 0);
    if (stat !== undefined && stat.size > this.#bytes) this.#readOn();
    return this.#lines;
  }

  /**
   * Appends a line and writes it to disk. Creates the file, and its folder.
   *
   * @throws InputError when the system refuses, such as on a full disk; the file is as before then
   */
  append(line: T): void {
    makeFolder(dirname(this.file));
    try {
      const fd = openSync(this.file, "a+");
      try {
        const end = endOfLines(fd);
        ftruncateSync(fd, end);
        writeWhole(fd, Buffer.from(jsonLines([line])), end);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    } catch (cause) {
      throw writeFailure(this.file, cause);
    }
  }

  #forget(inode: number): void {
    if (this.#lines.length > 0) this.#lines = [];
    this.#inode = inode;
    this.#bytes = 0;
  }

  /** Reads from where it stopped the last time to the last line break. */
  #readOn(): void {
    const fd = openSync(this.file, "r");
    try {
      const end = endOfLines(fd);
      if (end <= this.#bytes) return;
      const texts = readBytes(fd, this.#bytes, end).toString("utf8").split("\n").slice(0, -1);
      this.#lines = [...this.#lines, ...texts.map((text, i) => this.#parse(text, this.#lines.length + i + 1))];
      this.#bytes = end;
    } finally {
      closeSync(fd);
    }
  }

  #parse(text: string, number: number): T {
    const where = `line ${number} of ${this.file}`;
    const { data, error } = this.#schema.safeParse(parseJson(text, where));
    if (error === undefined) return data;
    const { path, message } = error.issues[0]!;
    throw new InputError(`${where}: ${path.join(".") || "line"}: ${message}; received ${show(text)}`);
  }
}

/** Writes all bytes, or none: what there was ends at `end`. */
function writeWhole(fd: number, bytes: Buffer, end: number): void {
  try {
    for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
  } catch (error) {
    ftruncateSync(fd, end);
    throw error;
  }
}

/** Where the last whole line of a file ends. */
function endOfLines(fd: number): number {
  const step = 4096;
  for (let end = fstatSync(fd).size; end > 0; end -= step) {
    const start = Math.max(0, end - step);
    const at = readBytes(fd, start, end).lastIndexOf(LINE_BREAK);
    if (at !== -1) return start + at + 1;
  }
  return 0;
}

/** The bytes of a file from `start` to `end`; fewer where it has become shorter. */
function readBytes(fd: number, start: number, end: number): Buffer {
  const bytes = Buffer.alloc(end - start);
  for (let done = 0; done < bytes.length;) {
    const read = readSync(fd, bytes, done, bytes.length - done, start + done);
    if (read === 0) return bytes.subarray(0, done);
    done += read;
  }
  return bytes;
}
