/**
 * Builds the addon against one libtorch, in build/<key>/ or, for a debug build, build/<key>-debug/: one folder for each
 * libtorch and kind, so that several can be used from one checkout. node-gyp runs there on a copy of binding.gyp with a
 * link to native/. src/torch/native.ts loads the one whose build.json matches; build/current.json names the
 * libtorch that is used without LIBTORCH in the environment.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { BuildError } from "./errors.mjs";

/**
 * The folder of the build for a libtorch, within build/.
 * @param {string} root its real path
 * @param {"release" | "debug"} kind
 */
function folderOf(root, kind) {
  const key = createHash("sha256").update(root).digest("hex").slice(0, 12);
  return kind === "debug" ? `${key}-debug` : key;
}

/**
 * A hash of everything that the build depends on.
 * @param {string} packageRoot
 * @param {import("./layout.mjs").Libtorch} libtorch
 */
function fingerprint(packageRoot, libtorch) {
  const hash = createHash("sha256").update(JSON.stringify(libtorch)).update(process.version).update(process.arch);
  const sources = readdirSync(join(packageRoot, "native")).sort();
  for (const file of [...sources.map((name) => join("native", name)), "binding.gyp"]) {
    hash.update(file).update(readFileSync(join(packageRoot, file)));
  }
  return hash.digest("hex");
}

/**
 * Builds unless the build is up to date.
 *
 * @param {string} packageRoot
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {object} [options]
 * @param {boolean} [options.makeCurrent] make its libtorch the one that is used without LIBTORCH in the environment
 * @param {"release" | "debug"} [options.kind] "debug": with symbols and without optimisation
 * @returns {boolean} whether anything had to be built
 */
export function build(packageRoot, libtorch, { makeCurrent = true, kind = "release" } = {}) {
  const folder = join(packageRoot, "build", folderOf(libtorch.root, kind));
  const addon = join(folder, "torch.node");
  const stamp = join(folder, "fingerprint");
  const wanted = fingerprint(packageRoot, libtorch);
  const upToDate = existsSync(addon) && existsSync(stamp) && readFileSync(stamp, "utf8") === wanted;
  if (!upToDate) {
    mkdirSync(folder, { recursive: true });
    rmSync(stamp, { force: true });
    compile(packageRoot, folder, libtorch, kind);
    // Replace the file instead of its contents, because a process may have the old one loaded.
    rmSync(addon, { force: true });
    copyFileSync(join(folder, "build", kind === "debug" ? "Debug" : "Release", "torch.node"), addon);
    writeFileSync(stamp, wanted);
  }
  writeFileSync(join(folder, "build.json"), JSON.stringify({ root: libtorch.root, kind }, null, 2) + "\n");
  if (makeCurrent) {
    const current = { root: libtorch.root, version: libtorch.version };
    writeFileSync(join(packageRoot, "build/current.json"), JSON.stringify(current, null, 2) + "\n");
  }
  return !upToDate;
}

/**
 * @param {string} packageRoot
 * @param {string} folder of the build
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {"release" | "debug"} kind
 */
function compile(packageRoot, folder, libtorch, kind) {
  copyFileSync(join(packageRoot, "binding.gyp"), join(folder, "binding.gyp"));
  rmSync(join(folder, "native"), { force: true, recursive: true });
  symlinkSync(join(packageRoot, "native"), join(folder, "native"), "junction");
  // gyp variables for the libtorch, which binding.gyp includes.
  const variables = {
    variables: {
      torch_includes: libtorch.includes,
      torch_defines: libtorch.defines,
      torch_standard: libtorch.standard,
      torch_library_folder: libtorch.libraryFolder,
      torch_libraries: libtorch.libraries,
    },
  };
  writeFileSync(join(folder, "libtorch.gypi"), JSON.stringify(variables, null, 2));
  const nodeGyp = createRequire(join(packageRoot, "package.json")).resolve("node-gyp/bin/node-gyp.js");
  const run = spawnSync(
    process.execPath,
    [nodeGyp, "configure", "build", `--${kind}`, "--jobs", String(availableParallelism()), ...nodeHeaders()],
    { cwd: folder, encoding: "utf8", maxBuffer: 1 << 28 },
  );
  if (run.status === 0) return;
  const output = `${run.stdout ?? ""}${run.stderr ?? ""}`;
  throw new BuildError(adviceFor(output, run.error), output);
}

/** The headers that came with this Node, if any; otherwise node-gyp downloads them. */
function nodeHeaders() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  return existsSync(join(prefix, "include/node/node_api.h")) ? [`--nodedir=${prefix}`] : [];
}

/**
 * Advice for a failed build, from its output.
 * @param {string} output
 * @param {Error | undefined} error
 */
function adviceFor(output, error) {
  if (error !== undefined) return `node-gyp could not be started: ${error.message}`;
  if (/Could not find any Python/.test(output)) {
    return "node-gyp needs Python 3: install it (Debian, Ubuntu: apt-get install python3) and run npm install again";
  }
  if (/(g\+\+|c\+\+|clang\+\+|make).*(not found|No such file|ENOENT)|not found: make/.test(output)) {
    return (
      "A C++ compiler and make are needed: install them (Debian, Ubuntu: apt-get install g++ make; " +
      "macOS: xcode-select --install) and run npm install again"
    );
  }
  if (/getaddrinfo|ENOTFOUND|ECONNREFUSED|ETIMEDOUT/.test(output)) {
    return (
      "node-gyp could not download Node's headers: install them (Debian, Ubuntu: apt-get install libnode-dev) " +
      "or point npm_config_nodedir at a Node folder with include/node"
    );
  }
  return "The compiler did not accept native/ with this libtorch";
}
