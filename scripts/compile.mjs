/**
 * Compiles the TypeScript into dist/: `npm run build`. Only what has changed is compiled again (dist/.tsbuildinfo), so
 * this also sees to what tsc does not look at: outputs whose source is gone are removed, and lost ones are made again.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, "dist");
const OUTPUT = /\.(js|js\.map|d\.ts)$/;

/** @returns {string[]} every file of a folder, from the repository's root; none where there is no folder */
function filesIn(/** @type {string} */ folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));
}

/** Removes what was compiled from sources that are there no longer: it could still be imported, run or published. */
function removeOrphans() {
  for (const file of filesIn(dist)) {
    const source = relative("dist", file).replace(OUTPUT, ".ts");
    if (OUTPUT.test(file) && !existsSync(join(root, source))) rmSync(join(root, file));
  }
}

/** Sources that should have been compiled but have no output. */
function lost() {
  return ["src", "test", "bench", "scripts", "examples"]
    .flatMap((folder) => filesIn(join(root, folder)))
    .filter((file) => file.endsWith(".ts") && !existsSync(join(dist, file.replace(/\.ts$/, ".js"))));
}

/** @returns {number} the exit status of tsc */
function tsc() {
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  return spawnSync(process.execPath, [compiler, "--project", root], { stdio: "inherit" }).status ?? 1;
}

/**
 * Brings dist/ up to date.
 * @returns {number} 0, or the exit status of tsc when the types do not hold
 */
export function compile() {
  removeOrphans();
  const status = tsc();
  if (status !== 0 || lost().length === 0) return status;
  // tsc takes its own word for what it has written.
  rmSync(join(dist, ".tsbuildinfo"), { force: true });
  return tsc();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = compile();
