/** Finds model folders: from the working folder, else among those that ship with the package. */
import { existsSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { InputError } from "./input-error.js";

/**
 * The folder that a config's model path names.
 *
 * @throws InputError when there is none
 */
export function resolveModelFolder(path: string): string {
  const places = isAbsolute(path) ? [path] : [resolve(path), join(packageRoot(), path)];
  const found = places.find((place) => existsSync(place));
  if (found === undefined) {
    throw new InputError(
      `Expected a model folder but received ${path}; looked for ${[...new Set(places)].join(" and ")}`,
    );
  }
  return found;
}

function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}
