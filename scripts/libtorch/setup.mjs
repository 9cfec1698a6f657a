/**
 * The setup: finds or gets a libtorch, builds the native addon for it, and sees that it loads. `b2 setup` and
 * scripts/install.mjs are two doors to it. Run again, it builds only what has changed.
 */
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ensureFastBlas, ensureGloo, installWithApt } from "./apt.mjs";
import { build } from "./build.mjs";
import { downloadLibtorch } from "./download.mjs";
import { InstallError } from "./errors.mjs";
import { libtorchIn, pythonTorch, systemLibtorch } from "./find.mjs";
import { lines } from "./progress.mjs";

/** @typedef {import("./progress.mjs").Progress} Progress */

const packageRoot = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

const WAYS = `Expected a libtorch (1.13 or later) but found none. Any of these provides one:
  pip install torch                                       the torch of the python3 on the PATH is used
  sudo apt-get install libtorch-dev libopenblas0-pthread  Debian, Ubuntu
  brew install pytorch                                    macOS
  unpack https://pytorch.org/get-started/locally/ (LibTorch) anywhere and set LIBTORCH to its folder`;

/** The official archives: cpu, cu126, rocm6.4 and so on. */
const VARIANT = /^(cpu|cu\d+|rocm[\d.]+|xpu)$/;

/**
 * Which libtorch is wanted, and who says so: the option, LIBTORCH (a folder) or B2_LIBTORCH.
 * @param {string} option
 * @returns {{ wanted: string, origin: string, isFolder?: boolean }}
 */
function choice(option) {
  if (option !== "auto") return { wanted: option, origin: "--libtorch" };
  const { LIBTORCH, B2_LIBTORCH } = process.env;
  if (LIBTORCH) return { wanted: LIBTORCH, origin: "LIBTORCH", isFolder: true };
  if (B2_LIBTORCH) return { wanted: B2_LIBTORCH, origin: "B2_LIBTORCH" };
  return { wanted: "auto", origin: "" };
}

/**
 * @param {string} option
 * @param {Progress} progress
 * @param {AbortSignal} [signal]
 * @returns {Promise<import("./find.mjs").Found>}
 */
async function findOrGet(option, progress, signal) {
  const { wanted, origin, isFolder = false } = choice(option);
  if (isFolder) return libtorchIn(wanted, origin);
  if (wanted === "auto") {
    const found =
      pythonTorch() ??
      systemLibtorch() ??
      (await downloadLibtorch("cpu", progress, signal)) ??
      installWithApt(progress.log);
    if (found === undefined) throw new InstallError(WAYS);
    return found;
  }
  if (wanted === "python") {
    const found = pythonTorch();
    if (found !== undefined) return found;
    throw new InstallError(
      `Expected a torch (1.13 or later) in python3 for ${origin} but found none: pip install torch`,
    );
  }
  if (wanted === "system") {
    const found = systemLibtorch() ?? installWithApt(progress.log);
    if (found !== undefined) return found;
    throw new InstallError(`Expected a libtorch (1.13 or later) of the system for ${origin} but found none`);
  }
  if (VARIANT.test(wanted)) {
    const found = await downloadLibtorch(wanted, progress, signal);
    if (found !== undefined) return found;
    throw new InstallError(`Expected the official libtorch "${wanted}" for ${origin} but could not get it`);
  }
  if (!/[/\\]/.test(wanted)) {
    const words = "auto, python, system, cpu, cu126 (or another CUDA), or a folder with a libtorch";
    throw new InstallError(`Expected ${words} for ${origin} but received ${wanted}`);
  }
  return libtorchIn(wanted, origin);
}

/**
 * Why an addon does not load, tried in a process of its own; undefined if it does.
 * @param {string} addon
 */
function loadFault(addon) {
  const program = "require(process.argv[1]).version()";
  const { error, signal, status, stderr } = spawnSync(process.execPath, ["-e", program, addon], { encoding: "utf8" });
  if (status === 0) return undefined;
  if (signal !== null) return `it ends the process with ${signal}`;
  return error?.message ?? /^\w*Error: (.*)/m.exec(stderr)?.[1] ?? stderr.trim();
}

/**
 * @param {object} [options]
 * @param {string} [options.libtorch] auto, python, system, the variant of an official archive, or a folder
 * @param {"release" | "debug"} [options.kind]
 * @param {Progress} [options.progress]
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<{ libtorch: { version: string, root: string, origin: string }, addon: string, built: boolean }>} the
 *   libtorch, the file of the addon, and whether it had to be built
 * @throws {InstallError} saying what is missing and how to get it; {Aborted} when the signal aborts
 */
export async function setUp({ libtorch: option = "auto", kind = "release", progress = lines, signal } = {}) {
  const { libtorch: found, origin } = await findOrGet(option, progress, signal);
  const { version, root } = found;
  progress.log(`Using libtorch ${version} from ${root} (${origin}).`);
  ensureFastBlas(found, progress.log);
  const libtorch = ensureGloo(found, progress.log);
  try {
    const how = { kind, makeCurrent: kind === "release", progress, ...(signal && { signal }) };
    let { addon, built } = await build(packageRoot, libtorch, how);
    let fault = loadFault(addon);
    // It may be up to date and broken all the same.
    if (fault !== undefined && !built) {
      ({ built } = await build(packageRoot, libtorch, { ...how, anew: true }));
      fault = loadFault(addon);
    }
    if (fault !== undefined) throw new InstallError(`The native addon is built but does not load: ${fault}`);
    return { libtorch: { version, root, origin }, addon, built };
  } catch (error) {
    const { code, path } = /** @type {NodeJS.ErrnoException} */ (error);
    if (!["EACCES", "EPERM", "EROFS", "ENOSPC"].includes(code ?? "")) throw error;
    throw new InstallError(
      `Expected to write the build to ${join(packageRoot, "build")} but received ${code} for ${path}`,
    );
  }
}
