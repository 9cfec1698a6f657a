/**
 * Builds the addon against one libtorch, in build/<key>/ or, for a debug build, build/<key>-debug/: one folder for each
 * libtorch and kind, so that several can be used from one checkout. node-gyp runs there on a copy of binding.gyp with a
 * link to native/. src/torch/addon.ts finds the one whose build.json matches; build/current.json names the libtorch that is
 * used without LIBTORCH in the environment.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import { Aborted, InstallError } from "./errors.mjs";
import { lines } from "./progress.mjs";

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
 * A hash of what the addon is compiled from. src/torch/addon.ts computes the same, to notice that it is out of date.
 * @param {string} packageRoot
 */
function sourcesHash(packageRoot) {
  const hash = createHash("sha256");
  const sources = readdirSync(join(packageRoot, "native")).sort();
  for (const file of [...sources.map((name) => join("native", name)), "binding.gyp"]) {
    hash.update(file).update(readFileSync(join(packageRoot, file)));
  }
  return hash.digest("hex");
}

/** @param {string} file */
const readIfThere = (file) => (existsSync(file) ? readFileSync(file, "utf8") : undefined);

/**
 * Builds unless the build is up to date. An addon works with every Node that has its version of Node-API, so another Node
 * is no reason to build again.
 *
 * @param {string} packageRoot
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {object} [options]
 * @param {boolean} [options.makeCurrent] make its libtorch the one that is used without LIBTORCH in the environment
 * @param {"release" | "debug"} [options.kind] "debug": with symbols and without optimisation
 * @param {boolean} [options.anew] build even if the build is up to date
 * @param {import("./progress.mjs").Progress} [options.progress]
 * @param {AbortSignal} [options.signal]
 * @returns {Promise<{ addon: string, built: boolean }>} the file, and whether anything had to be built
 * @throws {InstallError} saying what is missing, when the build fails
 */
export async function build(packageRoot, libtorch, options = {}) {
  const { makeCurrent = true, kind = "release", anew = false, progress = lines, signal } = options;
  const folder = join(packageRoot, "build", folderOf(libtorch.root, kind));
  const addon = join(folder, "torch.node");
  const library = { file: libtorch.library, bytes: statSync(libtorch.library).size };
  const record = { root: libtorch.root, kind, library, sources: sourcesHash(packageRoot) };
  // How it was compiled counts as well, but is nothing that a process has to check before it loads the addon.
  const wanted = JSON.stringify({ ...record, libtorch, platform: process.platform, arch: process.arch });
  const stamp = join(folder, "fingerprint");
  const upToDate = !anew && existsSync(addon) && readIfThere(stamp) === wanted;
  if (!upToDate) {
    mkdirSync(folder, { recursive: true });
    rmSync(stamp, { force: true });
    // make goes by times, and a package manager may well install headers that are older than what was compiled before.
    const isSameLibtorch = readIfThere(join(folder, "library.json")) === JSON.stringify(library);
    if (anew || !isSameLibtorch) rmSync(join(folder, "build"), { recursive: true, force: true });
    writeFileSync(join(folder, "library.json"), JSON.stringify(library));
    await compile(packageRoot, folder, libtorch, { kind, progress, signal });
    // Replace the file instead of its contents, because a process may have the old one loaded.
    rmSync(addon, { force: true });
    copyFileSync(join(folder, "build", kind === "debug" ? "Debug" : "Release", "torch.node"), addon);
    writeFileSync(stamp, wanted);
  }
  writeFileSync(join(folder, "build.json"), JSON.stringify(record, null, 2) + "\n");
  if (makeCurrent) {
    const current = { root: libtorch.root, version: libtorch.version };
    writeFileSync(join(packageRoot, "build/current.json"), JSON.stringify(current, null, 2) + "\n");
  }
  return { addon, built: !upToDate };
}

/**
 * @param {string} packageRoot
 * @param {string} folder of the build
 * @param {import("./layout.mjs").Libtorch} libtorch
 * @param {{ kind: "release" | "debug", progress: import("./progress.mjs").Progress, signal: AbortSignal | undefined }} how
 */
async function compile(packageRoot, folder, libtorch, { kind, progress, signal }) {
  copyFileSync(join(packageRoot, "binding.gyp"), join(folder, "binding.gyp"));
  rmSync(join(folder, "native"), { force: true, recursive: true });
  symlinkSync(join(packageRoot, "native"), join(folder, "native"), "junction");
  const { resolve } = createRequire(join(packageRoot, "package.json"));
  // gyp variables, which binding.gyp includes.
  const variables = {
    variables: {
      // Relative, because gyp's makefiles would break at a space in it.
      addon_api: relative(folder, dirname(resolve("node-addon-api/napi.h"))),
      torch_includes: libtorch.includes,
      torch_defines: libtorch.defines,
      torch_standard: libtorch.standard,
      torch_library_folder: libtorch.libraryFolder,
      torch_libraries: libtorch.libraries,
    },
  };
  writeFileSync(join(folder, "libtorch.gypi"), JSON.stringify(variables, null, 2));
  const nodeGyp = resolve("node-gyp/bin/node-gyp.js");
  const args = ["configure", "build", `--${kind}`, "--jobs", String(availableParallelism()), ...nodeHeaders()];
  // With a signal in a group of its own, so that make and the compilers end with it.
  const detached = signal !== undefined;
  const child = spawn(process.execPath, [nodeGyp, ...args], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
    detached,
  });
  const stop = () => void (child.pid !== undefined && child.exitCode === null && process.kill(-child.pid));
  signal?.addEventListener("abort", stop);
  const files = readdirSync(join(packageRoot, "native")).filter((name) => name.endsWith(".cc")).length;
  const task = progress.task("compiling the native addon", files, "files");
  let output = "";
  const read = (/** @type {string} */ text) => {
    output += text;
    // make prints a line such as "CXX(target) Release/obj.target/torch/native/addon.o" as it begins a file.
    const begun = text.match(/\.o$/gm)?.length ?? 0;
    if (begun > 0) task.advance(begun);
  };
  child.stdout.setEncoding("utf8").on("data", read);
  child.stderr.setEncoding("utf8").on("data", read);
  try {
    const status = await new Promise((resolve, reject) => child.on("error", reject).on("close", resolve));
    if (status === 0) return;
  } catch (error) {
    throw new InstallError(`node-gyp could not be started: ${/** @type {Error} */ (error).message}`);
  } finally {
    signal?.removeEventListener("abort", stop);
    task.done();
  }
  if (signal?.aborted) throw new Aborted();
  const log = join(folder, "build.log");
  writeFileSync(log, output);
  throw new InstallError(adviceFor(output, log));
}

/** The headers that came with this Node, if any; otherwise node-gyp downloads them. */
function nodeHeaders() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  return existsSync(join(prefix, "include/node/node_api.h")) ? [`--nodedir=${prefix}`] : [];
}

/**
 * What is missing, from the output of a failed build.
 * @param {string} output
 * @param {string} log where it is
 */
function adviceFor(output, log) {
  if (/Could not find any Python/.test(output)) {
    return "Building the native addon takes Python 3. Install it (Debian, Ubuntu: apt-get install python3)";
  }
  const tool = String.raw`(g\+\+|c\+\+|clang\+\+|(?<![.\w])g?cc\b|\bmake\b)`;
  if (
    new RegExp(`${tool}.*(not found|No such file|ENOENT)|(not found|No such file or directory): .*${tool}`).test(output)
  ) {
    return (
      "Building the native addon takes a C++ compiler and make. Install them (Debian, Ubuntu: apt-get install g++ make; " +
      "macOS: xcode-select --install)"
    );
  }
  if (/getaddrinfo|ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN/.test(output)) {
    return (
      "Building the native addon takes Node's headers, and node-gyp could not download them. Point npm_config_nodedir at " +
      "a Node folder with include/node, or install them (Debian, Ubuntu: apt-get install libnode-dev)"
    );
  }
  const first = output.split("\n").find((line) => /error: /i.test(line)) ?? "no reason given";
  return `The native addon did not compile: ${first.trim()} (all of it in ${log})`;
}
