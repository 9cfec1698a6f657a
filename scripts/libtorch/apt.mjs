/**
 * Installs packages of Debian and Ubuntu: libtorch itself; OpenBLAS, without which Debian's libtorch uses the reference
 * BLAS, which is fifty times slower; and Gloo's headers, without which several processes cannot train together.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { hasGlooHeaders, readLayout } from "./layout.mjs";

const hasApt = () => process.platform === "linux" && existsSync("/usr/bin/apt-get");
const isRoot = () => process.getuid?.() === 0;

/** Whether this process may install packages. */
export const canInstall = () => hasApt() && isRoot();

/**
 * @param {string[]} packages
 * @param {(line: string) => void} say
 * @returns {boolean} whether the packages are installed now
 */
export function aptInstall(packages, say) {
  say(`Installing ${packages.join(" and ")} with apt-get; this can take a minute or two.`);
  const environment = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const apt = (/** @type {string[]} */ ...args) =>
    spawnSync("apt-get", ["-q", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1", ...args], {
      env: environment,
      encoding: "utf8",
      maxBuffer: 1 << 28,
    });
  apt("update");
  const run = apt("install", "--yes", "--no-install-recommends", ...packages);
  if (run.status === 0) return true;
  say(`apt-get did not work: ${(run.stderr ?? "").trim().split("\n").at(-1) ?? "no reason given"}`);
  return false;
}

/**
 * Installs Debian's libtorch.
 * @param {(line: string) => void} say
 * @returns {import("./find.mjs").Found | undefined}
 */
export function installWithApt(say) {
  if (!canInstall()) return undefined;
  if (!aptInstall(["libtorch-dev", "libopenblas0-pthread", "libgloo-dev"], say)) return undefined;
  const libtorch = readLayout("/usr");
  return libtorch && { libtorch, origin: "installed with apt-get" };
}

/**
 * Whether the system's libblas.so.3 is a fast implementation.
 * @param {string} libraryFolder
 */
function hasFastBlas(libraryFolder) {
  const link = join(libraryFolder, "libblas.so.3");
  const known = /openblas|mkl|blis|atlas/;
  if (existsSync(link)) return known.test(realpathSync(link));
  return readdirSync(libraryFolder).some((name) => known.test(name));
}

/**
 * Gives Debian's libtorch a fast BLAS: installs OpenBLAS when root, else prints how to.
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {(line: string) => void} say
 */
export function ensureFastBlas(libtorch, say) {
  if (!hasApt() || libtorch.root !== "/usr" || hasFastBlas(libtorch.libraryFolder)) return;
  if (isRoot() && aptInstall(["libopenblas0-pthread"], say)) return;
  say("Without OpenBLAS this libtorch is about 50 times slower: sudo apt-get install libopenblas0-pthread");
}

/**
 * Gives Debian's libtorch the headers of Gloo: installs them when root. Where they are missing, the addon is built without
 * c10d, and says how to get them when workers are asked for.
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {(line: string) => void} say
 * @returns {import("./layout.mjs").Libtorch} with what can be compiled in now
 */
export function ensureGloo(libtorch, say) {
  if (!hasApt() || libtorch.root !== "/usr" || hasGlooHeaders(libtorch.root)) return libtorch;
  if (isRoot() && aptInstall(["libgloo-dev"], say)) return readLayout(libtorch.root) ?? libtorch;
  return libtorch;
}
