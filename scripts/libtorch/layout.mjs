/**
 * Inspects a libtorch folder: where its headers and libraries are, its version and how it was compiled. Supports pip
 * packages, official archives (include/, lib/) and system installations (/usr, a conda prefix).
 */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";

/**
 * @typedef {object} Libtorch
 * @property {string} root the folder, real path
 * @property {string} version as "2.13.0"
 * @property {string[]} includes folders of headers
 * @property {string} libraryFolder
 * @property {string} library the file of libtorch_cpu
 * @property {string[]} libraries linker flags
 * @property {string[]} defines
 * @property {string} standard the C++ standard that its headers need
 */

/** Debian keeps libraries in a folder named after the machine. */
const SYSTEM_LIBRARY_FOLDERS = ["lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64"];

const sharedLibrary = (/** @type {string} */ name) => `lib${name}.${process.platform === "darwin" ? "dylib" : "so"}`;

/**
 * Reads a libtorch folder.
 * @param {string} folder
 * @returns {Libtorch | undefined} undefined if there is no libtorch to build against
 */
export function readLayout(folder) {
  if (!existsSync(folder)) return undefined;
  const root = realpathSync(folder);
  const include = join(root, "include");
  const api = join(include, "torch/csrc/api/include");
  const version = readVersion([join(include, "torch/headeronly/version.h"), join(api, "torch/version.h")]);
  if (version === undefined || !existsSync(join(include, "ATen/ATen.h"))) return undefined;

  const libraryFolder = SYSTEM_LIBRARY_FOLDERS.map((name) => join(root, name)).find((name) =>
    existsSync(join(name, sharedLibrary("torch_cpu"))),
  );
  if (libraryFolder === undefined) return undefined;

  return {
    root,
    version,
    includes: [include, api],
    libraryFolder,
    library: join(libraryFolder, sharedLibrary("torch_cpu")),
    libraries: librariesIn(libraryFolder),
    defines: [
      `_GLIBCXX_USE_CXX11_ABI=${usesNewStrings(libraryFolder) ? 1 : 0}`,
      ...distributedDefines(root, libraryFolder),
    ],
    standard: Number(version.split(".")[0]) < 2 ? "gnu++17" : minorOf(version) < 10 ? "gnu++17" : "gnu++20",
  };
}

const minorOf = (/** @type {string} */ version) => Number(version.split(".")[1]);

/**
 * Which parts of c10d can be compiled in. libtorch's headers of Gloo include those of Gloo itself, which libtorch does not
 * bring: Debian has them in libgloo-dev. NCCL needs nccl.h and a libtorch for CUDA.
 * @param {string} root
 * @param {string} libraryFolder
 */
function distributedDefines(root, libraryFolder) {
  if (!hasGlooHeaders(root)) return [];
  const isCuda = existsSync(join(libraryFolder, sharedLibrary("torch_cuda")));
  return ["USE_C10D_GLOO", ...(isCuda && isHeader(root, "nccl.h") ? ["USE_C10D_NCCL"] : [])];
}

/**
 * Whether c10d's Gloo can be compiled against a libtorch.
 * @param {string} root
 */
export const hasGlooHeaders = (root) =>
  process.platform === "linux" &&
  existsSync(join(root, "include/torch/csrc/distributed/c10d/ProcessGroupGloo.hpp")) &&
  isHeader(root, "gloo/context.h");

/** @param {string} root @param {string} name */
const isHeader = (root, name) =>
  [join(root, "include"), "/usr/include"].some((folder) => existsSync(join(folder, name)));

/** @param {string[]} headers that may define it */
function readVersion(headers) {
  for (const header of headers) {
    if (!existsSync(header)) continue;
    const text = readFileSync(header, "utf8");
    const numbers = ["MAJOR", "MINOR", "PATCH"].map(
      (part) => new RegExp(`#define TORCH_VERSION_${part} (\\d+)`).exec(text)?.[1],
    );
    if (numbers.every((number) => number !== undefined)) return numbers.join(".");
  }
  return undefined;
}

/**
 * Device libraries register themselves when loaded, so the linker must not drop them as unreferenced.
 * @param {string} folder
 */
function librariesIn(folder) {
  const present = new Set(readdirSync(folder));
  const devices = ["torch_cuda", "c10_cuda", "torch_hip", "c10_hip"].filter((name) => present.has(sharedLibrary(name)));
  const all = ["torch", "torch_cpu", "c10", ...devices].map((name) => `-l${name}`);
  return process.platform === "darwin" ? all : ["-Wl,--no-as-needed", ...all, "-Wl,--as-needed"];
}

/**
 * Whether it was compiled with the C++11 std::string: official builds before 2.6 were not.
 * @param {string} folder
 */
function usesNewStrings(folder) {
  if (process.platform === "darwin") return true;
  return readFileSync(join(folder, sharedLibrary("c10"))).includes("St7__cxx11");
}
