/** Builds if needed and runs the tests: `npm test`. `npm test -- --help` shows how to run some of them. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "./compile.mjs";
import { build } from "./libtorch/build.mjs";
import { readLayout } from "./libtorch/layout.mjs";
import { setUp } from "./libtorch/setup.mjs";

const HELP = `npm test -- [word ...] [--name <pattern>] [--coverage] [flags of node --test]

  word               only the test files whose path contains it; several words: any of them
  --name <pattern>   only the tests whose name matches this regular expression
  --coverage         also prints which share of the loaded sources was run (npm run coverage)
  --help             prints this
  --flag[=value]     any other flag goes to node --test as it is:
                       --test-only                 only tests marked { only: true }
                       --test-skip-pattern=<p>     all but the tests whose name matches
                       --watch                     again after every change in dist/ (beside npm run watch)
                       --inspect-brk               under a debugger

LIBTORCH=<folder> runs the tests on that libtorch, GOLDEN=<folder>:<folder> also on golden vectors from elsewhere
(test/README.md). Examples:

  npm test -- scheduler lora
  npm test -- src/torch --name "gradient|backward"
  npm test -- world --watch`;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);

/**
 * What to run, from the command line.
 * @param {string[]} args
 * @returns {{ words: string[], flags: string[], coverage: boolean, help: boolean }}
 */
function parse(args) {
  /** @type {ReturnType<typeof parse>} */
  const options = { words: [], flags: [], coverage: false, help: false };
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    const name = /^--(?:name|test-name-pattern)(?:=(.*))?$/.exec(arg);
    if (name !== null) {
      const pattern = name[1] ?? args[++i];
      if (!pattern) throw new Error(`Expected a pattern after ${arg}`);
      options.flags.push(`--test-name-pattern=${pattern}`);
    } else if (arg === "--coverage") options.coverage = true;
    else if (arg === "--help" || arg === "-h") options.help = true;
    else if (arg.startsWith("-")) options.flags.push(arg);
    else options.words.push(arg);
  }
  return options;
}

/**
 * Runs a program to its end, and exits if it fails.
 * @param {string[]} args
 */
function runNode(args, env = process.env) {
  const { status, error } = spawnSync(process.execPath, args, { stdio: "inherit", env });
  if (error !== undefined) console.error(error.message);
  if (status !== 0) process.exit(status ?? 1);
}

/** Builds the addon for the libtorch that the tests load. */
async function buildAddon() {
  const current = join(root, "build/current.json");
  const folder = process.env.LIBTORCH || (existsSync(current) && JSON.parse(readFileSync(current, "utf8")).root);
  const libtorch = folder ? readLayout(folder) : undefined;
  if (libtorch === undefined || !existsSync(current)) await setUp();
  else await build(root, libtorch, { makeCurrent: false });
}

/**
 * The compiled tests whose path, from the repository's root, contains one of the words. Listed by their sources, so
 * that outputs of deleted sources are not run.
 * @param {string[]} words
 */
function testFiles(words) {
  return ["src", "test", "scripts"]
    .flatMap((folder) => readdirSync(folder, { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)))
    .filter((file) => file.endsWith(".test.ts"))
    .filter((file) => words.length === 0 || words.some((word) => file.includes(word)))
    .map((file) => join("dist", file.replace(/\.ts$/, ".js")))
    .sort();
}

/** @param {string[]} args */
async function main(args) {
  const { words, flags, coverage, help } = parse(args);
  if (help) return console.log(HELP);
  const files = testFiles(words);
  if (files.length === 0) throw new Error(`Expected test files for ${words.join(" ")} but found none`);
  await buildAddon();
  const status = compile();
  if (status !== 0) process.exit(status);
  // Test files run in parallel and share the cores; one more than there are of them, as tests also wait.
  const cores = availableParallelism();
  const sideBySide = Math.min(cores + 1, 4);
  const reported = coverage
    ? ["--experimental-test-coverage", "--test-reporter=./scripts/coverage-reporter.mjs"]
    : flags.some((flag) => flag.startsWith("--test-reporter"))
      ? []
      : ["--test-reporter=spec"];
  runNode(["--test", `--test-concurrency=${sideBySide}`, ...reported, ...flags, ...files], {
    ...process.env,
    B2_THREADS: String(Math.max(1, Math.floor(cores / sideBySide))),
  });
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
