/** Notes which paths the functions of node:fs open, write to or list. They do what they do all the same. */
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";

const OBSERVED = [
  ...["openSync", "readFileSync", "readdirSync", "mkdirSync", "writeFileSync", "appendFileSync", "truncateSync"],
  ...["renameSync", "rmSync", "cpSync", "copyFileSync", "symlinkSync", "createReadStream", "createWriteStream"],
];
/** Which of the arguments are paths, where it is not the first. Where a link leads is text until it is opened. */
const PATHS: Readonly<Record<string, readonly number[]>> = {
  renameSync: [0, 1],
  cpSync: [0, 1],
  copyFileSync: [0, 1],
  symlinkSync: [1],
};

type Functions = Record<string, (...args: unknown[]) => unknown>;

export class OpenedPaths {
  readonly #paths = new Set<string>();

  /** From now on, for all modules. */
  constructor() {
    const functions = fs as unknown as Functions;
    for (const name of OBSERVED) {
      const original = functions[name]!;
      functions[name] = (...args) => {
        for (const i of PATHS[name] ?? [0]) this.#note(args[i]);
        return original(...args);
      };
    }
    syncBuiltinESMExports();
  }

  clear(): void {
    this.#paths.clear();
  }

  /** Those that are in none of the folders. */
  outside(folders: readonly string[]): string[] {
    return [...this.#paths].filter(
      (path) => !folders.some((folder) => path === folder || path.startsWith(folder + sep)),
    );
  }

  #note(path: unknown): void {
    if (typeof path === "string") this.#paths.add(resolve(path));
    else if (path instanceof URL) this.#paths.add(fileURLToPath(path));
  }
}
