/**
 * Builds what is not up to date and runs the tests: `npm test`, or `npm test -- torch scheduler` for the files whose
 * path contains a word. LIBTORCH in the environment runs them on that libtorch.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "./libtorch/build.mjs";
import { readLayout } from "./libtorch/layout.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);

function run(command, args, env = process.env) {
  const { status, error } = spawnSync(command, args, { stdio: "inherit", env });
  if (error !== undefined) console.error(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

/** The addon for the libtorch that the tests will load. */
function buildAddon() {
  const current = join(root, "build/current.json");
  const folder = process.env.LIBTORCH || (existsSync(current) && JSON.parse(readFileSync(current, "utf8")).root);
  const libtorch = folder ? readLayout(folder) : undefined;
  if (libtorch === undefined || !existsSync(current)) run(process.execPath, ["scripts/install.mjs"]);
  else build(root, libtorch, { makeCurrent: false });
}

/** Compiled tests whose source is still there, and whose path contains one of the words. */
function testFiles(words) {
  return readdirSync("dist", { recursive: true })
    .map((name) => join("dist", name))
    .filter((file) => file.endsWith(".test.js"))
    .filter((file) => existsSync(relative("dist", file).replace(/\.js$/, ".ts")))
    .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
    .sort();
}

buildAddon();
run(process.execPath, ["node_modules/typescript/bin/tsc"]);
const files = testFiles(process.argv.slice(2));
if (files.length === 0) {
  console.error(`Expected test files for ${process.argv.slice(2).join(" ")} but found none`);
  process.exit(1);
}
// Test files run side by side: the cores are shared out among them.
const cores = availableParallelism();
const sideBySide = Math.min(cores, 4);
run(process.execPath, ["--test", "--test-reporter=spec", `--test-concurrency=${sideBySide}`, ...files], {
  ...process.env,
  B2_THREADS: String(Math.max(1, Math.floor(cores / sideBySide))),
});
