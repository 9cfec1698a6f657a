/** A reader under test: sound files for it, how they are damaged, and what must hold of what it reads. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Mutate } from "../mutate.js";

/** A reader with its sound files in place. */
export interface ReadyReader {
  /** The files that are damaged, one at a time, by their paths in the folder. */
  readonly files: Readonly<Record<string, Mutate>>;
  /** Reads the files, or the damaged one, and asserts what must hold of a value that is accepted. */
  readonly read: (damaged: string) => unknown;
  /**
   * Paths of which an error may name one in place of the damaged file; null where the input is no file to the reader.
   * Default: none.
   */
  readonly names?: readonly string[] | null;
  /** Other errors than InputErrors with which the reader may refuse, for those that callers turn into InputErrors. */
  readonly refusals?: readonly (new (...args: never) => Error)[];
  /** Whether the files may name others to read, as a person's own do. Default: only those in its folder. */
  readonly opens?: "its folder" | "any";
  readonly close?: () => unknown;
}

export interface ReaderUnderTest {
  readonly name: string;
  /** How many inputs it gets, beside the shares of the others. */
  readonly share: number;
  /** Whether it takes all there is. */
  readonly takesAll?: true;
  /** Makes the sound files. @param folder an empty one of its own; there is one with secrets beside it: ../outside */
  readonly prepare: (folder: string) => ReadyReader | Promise<ReadyReader>;
}

/** Writes a file of a folder. */
export function put(folder: string, name: string, contents: string | Uint8Array | object): void {
  const file = join(folder, name);
  mkdirSync(dirname(file), { recursive: true });
  const isRaw = typeof contents === "string" || contents instanceof Uint8Array;
  writeFileSync(file, isRaw ? contents : JSON.stringify(contents));
}

/** What is in a file that stands for an input without one. */
export const inputOf = (folder: string): Buffer => readFileSync(join(folder, "input"));
