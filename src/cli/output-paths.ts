/** Checks output paths before any work is done. */
import { accessSync, constants, existsSync, readdirSync, rmdirSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { InputError } from "../base/errors.js";
import { makeFolder, writeFailure } from "../base/files.js";

/** Creates a folder to write to, unless it exists. @throws InputError when it cannot be made, or not written to */
export function makeOutputFolder(folder: string): void {
  makeFolder(folder);
  try {
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw writeFailure(folder, error);
  }
}

/** Checks that a folder can be made and written to, and leaves none. @throws InputError, see makeOutputFolder */
export function expectOutputFolder(folder: string): void {
  const missing: string[] = []; // the innermost first
  for (let at = resolve(folder); !existsSync(at) && at !== dirname(at); at = dirname(at)) missing.push(at);
  try {
    makeOutputFolder(folder);
  } finally {
    for (const made of missing) if (existsSync(made) && readdirSync(made).length === 0) rmdirSync(made);
  }
}

/** Creates the folder of a file. @throws InputError when it cannot be created, or the file is something else */
export function makeFolderOf(file: string): void {
  const stat = existsSync(file) ? statSync(file) : undefined;
  if (stat !== undefined && !stat.isFile()) {
    const what = stat.isDirectory() ? "a folder" : "no regular file";
    throw new InputError(`Expected a file to write to but received ${file}, which is ${what}`);
  }
  makeOutputFolder(dirname(file));
}
