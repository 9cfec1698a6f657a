/**
 * The install step: finds or downloads a libtorch, and builds the native addon against it. It takes the first of these
 * that exists: LIBTORCH in the environment, python3's torch, a system libtorch, the official archive, apt-get when
 * root. When run again, it rebuilds only what has changed. `--debug` builds the addon for a debugger, beside the usual
 * build; B2_ADDON=debug in the environment runs it.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { ensureFastBlas, installWithApt } from "./libtorch/apt.mjs";
import { build } from "./libtorch/build.mjs";
import { downloadLibtorch } from "./libtorch/download.mjs";
import { BuildError, InstallError } from "./libtorch/errors.mjs";
import { findLibtorch } from "./libtorch/find.mjs";

const packageRoot = dirname(dirname(fileURLToPath(import.meta.url)));
const say = (/** @type {string} */ line) => console.log(`[libtorch] ${line}`);

const WAYS = `Expected a libtorch (1.13 or later) but found none. Any of these provides one:
  pip install torch                                   the torch of the python3 on the PATH is used
  sudo apt-get install libtorch-dev libopenblas0-pthread    Debian, Ubuntu
  brew install pytorch                                macOS
  unpack https://pytorch.org/get-started/locally/ (LibTorch) anywhere and set LIBTORCH to its folder
Then run: npm install`;

/** @returns {Promise<import("./libtorch/find.mjs").Found>} */
async function findOrGet() {
  // B2_LIBTORCH asks for an official build, so neither an installed libtorch nor a distribution's will do.
  const kind = process.env.LIBTORCH ? undefined : process.env.B2_LIBTORCH;
  if (kind !== undefined) {
    const downloaded = await downloadLibtorch(say);
    if (downloaded === undefined)
      throw new InstallError(`Expected the official libtorch for ${kind}; leave out B2_LIBTORCH to take any`);
    return downloaded;
  }
  const found = findLibtorch() ?? (await downloadLibtorch(say)) ?? installWithApt(say);
  if (found === undefined) throw new InstallError(WAYS);
  return found;
}

async function main() {
  const kind = process.argv.includes("--debug") ? "debug" : "release";
  const found = await findOrGet();
  const { libtorch, origin } = found;
  say(`Using libtorch ${libtorch.version} from ${libtorch.root} (${origin}).`);
  ensureFastBlas(libtorch, say);
  if (!existsSync(join(packageRoot, "build"))) say("Building the native addon, about a minute.");
  const start = performance.now();
  const built = build(packageRoot, libtorch, { kind, makeCurrent: kind === "release" });
  say(built ? `Built in ${Math.round((performance.now() - start) / 1000)} s.` : "The native addon is up to date.");
}

try {
  await main();
} catch (error) {
  if (error instanceof BuildError) console.error(error.output);
  console.error(error instanceof InstallError ? error.message : error);
  process.exitCode = 1;
}
