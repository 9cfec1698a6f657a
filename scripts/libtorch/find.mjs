/** Finds a libtorch on this machine: in a folder, python3's torch or the system's. Downloads nothing. */
import { spawnSync } from "node:child_process";
import { homedir } from "node:os";
import { join } from "node:path";
import { InstallError } from "./errors.mjs";
import { readLayout } from "./layout.mjs";

/** @typedef {{ libtorch: import("./layout.mjs").Libtorch, origin: string }} Found */

/** The oldest version that native/ compiles against. */
const OLDEST = { major: 1, minor: 13 };

/** Where Debian, Homebrew, conda and users install it. */
function systemFolders() {
  const prefix = process.env.CONDA_PREFIX;
  return [
    "/usr",
    "/usr/local",
    "/usr/local/libtorch",
    "/opt/libtorch",
    "/opt/homebrew/opt/pytorch",
    "/usr/local/opt/pytorch",
    "/home/linuxbrew/.linuxbrew/opt/pytorch",
    ...(prefix ? [prefix] : []),
    "/opt/conda",
    join(homedir(), "miniconda3"),
  ];
}

/** @param {import("./layout.mjs").Libtorch} libtorch */
function isSupported({ version }) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > OLDEST.major || (major === OLDEST.major && minor >= OLDEST.minor);
}

/**
 * The libtorch in a folder that somebody named.
 * @param {string} folder
 * @param {string} origin who names it
 * @returns {Found}
 * @throws {InstallError} when there is no usable one: it is not silently replaced by another
 */
export function libtorchIn(folder, origin) {
  const libtorch = readLayout(folder);
  if (libtorch === undefined) {
    throw new InstallError(
      `Expected a folder with a libtorch (include/ATen and lib/libtorch_cpu) for ${origin} but received ${folder}`,
    );
  }
  if (!isSupported(libtorch)) {
    throw new InstallError(
      `Expected libtorch ${OLDEST.major}.${OLDEST.minor} or later for ${origin} but ${folder} has ${libtorch.version}`,
    );
  }
  return { libtorch, origin };
}

/** The torch that `python3` would import, without importing it. @returns {Found | undefined} */
export function pythonTorch() {
  const question =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
  const run = spawnSync("python3", ["-c", question], { encoding: "utf8", timeout: 10_000 });
  const folder = run.status === 0 ? run.stdout.trim() : "";
  return folder === "" ? undefined : usable(folder, "python3's torch");
}

/** A libtorch of the system's. @returns {Found | undefined} */
export function systemLibtorch() {
  for (const folder of systemFolders()) {
    const found = usable(folder, "system");
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * @param {string} folder
 * @param {string} origin
 * @returns {Found | undefined}
 */
function usable(folder, origin) {
  const libtorch = readLayout(folder);
  return libtorch !== undefined && isSupported(libtorch) ? { libtorch, origin } : undefined;
}
