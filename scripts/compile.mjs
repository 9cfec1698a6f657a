/**
 * Compiles the TypeScript into dist/: `npm run build`. The build is incremental (dist/.tsbuildinfo), so this
 * also does what tsc does not: it removes outputs of deleted sources, and makes missing outputs again.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const repository = dirname(dirname(fileURLToPath(import.meta.url)));
const OUTPUT = /\.(js|js\.map|d\.ts)$/;

/**
 * Every file of a folder, relative to it; empty if the folder does not exist.
 * @param {string} folder
 */
function filesIn(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

/**
 * Removes the outputs of deleted sources, which could otherwise be imported, run or published.
 * @param {string} root
 */
function removeOrphans(root) {
  for (const file of filesIn(join(root, "dist")).filter((name) => OUTPUT.test(name))) {
    if (!existsSync(join(root, file.replace(OUTPUT, ".ts")))) rmSync(join(root, "dist", file));
  }
}

/**
 * Whether the output of any source is missing.
 * @param {string} root
 */
function isLacking(root) {
  return ["src", "test", "bench", "scripts", "examples"]
    .flatMap((folder) => filesIn(join(root, folder)).map((file) => join(folder, file)))
    .some((file) => file.endsWith(".ts") && !existsSync(join(root, "dist", file.replace(/\.ts$/, ".js"))));
}

/**
 * @param {string} root
 * @returns {number} the exit status
 */
function tsc(root) {
  const compiler = join(repository, "node_modules/typescript/bin/tsc");
  return spawnSync(process.execPath, [compiler, "--project", root], { stdio: "inherit" }).status ?? 1;
}

/**
 * Brings dist/ up to date.
 * @param {string} [root] the folder of tsconfig.json
 * @returns {number} 0, or the exit status of tsc if there are type errors
 */
export function compile(root = repository) {
  removeOrphans(root);
  const status = tsc(root);
  if (status !== 0 || !isLacking(root)) return status;
  // tsc trusts its record of outputs, so delete the record if outputs are missing.
  rmSync(join(root, "dist/.tsbuildinfo"), { force: true });
  return tsc(root);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = compile(process.argv[2]);
