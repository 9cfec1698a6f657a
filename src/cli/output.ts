/** Checks output paths before any work is done. */
import { existsSync, mkdirSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { InputError } from "../base/errors.js";

/** Creates a folder unless it exists. @throws InputError when it cannot be made */
export function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw new InputError(`Expected a folder to write to but received ${folder} (${(cause as Error).message})`, {
      cause,
    });
  }
}

/** Creates the folder of a file. @throws InputError when it cannot be created, or the file is a folder */
export function makeFolderOf(file: string): void {
  if (existsSync(file) && statSync(file).isDirectory()) {
    throw new InputError(`Expected a file to write to but received ${file}, which is a folder`);
  }
  makeFolder(dirname(file));
}
