/** Finds a libtorch on this machine: from the environment, python3's torch or the system. Downloads nothing. */
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

/** The folder of the torch that `python3` would import, without importing it. */
function pythonTorch() {
  const question =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
  const run = spawnSync("python3", ["-c", question], { encoding: "utf8", timeout: 10_000 });
  const folder = run.status === 0 ? run.stdout.trim() : "";
  return folder === "" ? undefined : folder;
}

/**
 * The first usable libtorch: the LIBTORCH environment variable, python3's torch, a system libtorch.
 * @returns {Found | undefined}
 * @throws {InstallError} when LIBTORCH names no usable libtorch, which is not silently replaced by another
 */
export function findLibtorch() {
  const asked = process.env.LIBTORCH;
  if (asked) {
    const libtorch = readLayout(asked);
    if (libtorch === undefined) {
      throw new InstallError(
        `Expected a libtorch (include/ATen and lib/libtorch_cpu) in LIBTORCH but ${asked} has none`,
      );
    }
    if (!isSupported(libtorch)) {
      throw new InstallError(
        `Expected libtorch ${OLDEST.major}.${OLDEST.minor} or later in LIBTORCH but received ${libtorch.version}`,
      );
    }
    return { libtorch, origin: "LIBTORCH" };
  }
  const python = pythonTorch();
  const places = [
    ...(python === undefined ? [] : [{ folder: python, origin: "python3's torch" }]),
    ...systemFolders().map((folder) => ({ folder, origin: "system" })),
  ];
  for (const { folder, origin } of places) {
    const libtorch = readLayout(folder);
    if (libtorch !== undefined && isSupported(libtorch)) return { libtorch, origin };
  }
  return undefined;
}
