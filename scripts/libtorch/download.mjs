/**
 * The official libtorch archive of a variant (cpu, cu126, cu130, ...), downloaded once into the user's cache.
 * B2_LIBTORCH_VERSION chooses the release.
 */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { Aborted } from "./errors.mjs";
import { readLayout } from "./layout.mjs";

const VERSION = process.env.B2_LIBTORCH_VERSION ?? "2.13.0";

/** Timeouts: a missing network is noticed within seconds, while slow downloads continue as long as bytes arrive. */
const CONNECT_TIMEOUT_MS = 5_000;
const STALL_TIMEOUT_MS = 60_000;

function cacheFolder() {
  const base =
    process.env.XDG_CACHE_HOME || join(homedir(), process.platform === "darwin" ? "Library/Caches" : ".cache");
  return join(base, "b2-diffurl");
}

/**
 * The archive's URL; undefined for platforms without one.
 * @param {string} variant
 */
function archiveUrl(variant) {
  const base = `https://download.pytorch.org/libtorch/${variant}`;
  if (process.platform === "linux" && process.arch === "x64") {
    return `${base}/libtorch-shared-with-deps-${VERSION}%2B${variant}.zip`;
  }
  if (process.platform === "darwin" && process.arch === "arm64") return `${base}/libtorch-macos-arm64-${VERSION}.zip`;
  return undefined;
}

/**
 * Rejects if `promise` takes longer.
 * @template T
 * @param {number} milliseconds
 * @param {Promise<T>} promise
 * @param {string} what
 * @returns {Promise<T>}
 */
async function within(milliseconds, promise, what) {
  const late = after(milliseconds, undefined, { ref: false }).then(() => {
    throw new Error(`${what} for ${milliseconds / 1000} s`);
  });
  return Promise.race([promise, late]);
}

/**
 * @param {string} file
 * @param {string} url
 * @param {import("./progress.mjs").Progress} progress
 * @param {AbortSignal} [signal]
 */
async function downloadTo(file, url, progress, signal) {
  const response = await within(CONNECT_TIMEOUT_MS, fetch(url, signal && { signal }), "no answer");
  if (!response.ok || response.body === null) throw new Error(`the server answered ${response.status}`);
  const total = Number(response.headers.get("content-length") ?? 0);
  const megabytes = (/** @type {number} */ bytes) => Math.round(bytes / 1e6);
  const task = progress.task("downloading libtorch", megabytes(total), "MB");
  const out = createWriteStream(file);
  const reader = response.body.getReader();
  let received = 0;
  try {
    for (;;) {
      const { done, value } = await within(STALL_TIMEOUT_MS, reader.read(), "no data");
      if (done) break;
      task.advance(megabytes(received + value.length) - megabytes(received));
      received += value.length;
      if (!out.write(value)) await once(out, "drain");
    }
  } finally {
    task.done();
    out.end();
    await once(out, "close");
  }
  if (total > 0 && received !== total) throw new Error(`the download ended after ${received} of ${total} bytes`);
}

/**
 * Node cannot unzip, so this uses unzip or python3, which node-gyp needs anyway.
 * @param {string} archive
 * @param {string} folder
 */
function unzip(archive, folder) {
  /** @type {[command: string, args: string[]][]} */
  const ways = [
    ["unzip", ["-q", archive, "-d", folder]],
    ["python3", ["-m", "zipfile", "-e", archive, folder]],
  ];
  if (ways.some(([command, args]) => spawnSync(command, args, { stdio: "ignore" }).status === 0)) return;
  throw new Error("the archive could not be unpacked: both unzip and python3 failed");
}

/**
 * The reason of an error, which fetch hides behind "fetch failed".
 * @param {unknown} error
 */
function reasonOf(error) {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && "code" in cause ? cause.code : error.message;
}

/**
 * The libtorch in the user's cache, downloaded if it is missing.
 * @param {string} variant
 * @param {import("./progress.mjs").Progress} progress
 * @param {AbortSignal} [signal]
 * @returns {Promise<import("./find.mjs").Found | undefined>} undefined if that fails, after reporting the reason
 */
export async function downloadLibtorch(variant, progress, signal) {
  const target = join(cacheFolder(), `libtorch-${VERSION}-${variant}`);
  const cached = readLayout(join(target, "libtorch"));
  if (cached !== undefined) return { libtorch: cached, origin: "downloaded before" };
  const url = archiveUrl(variant);
  if (url === undefined) {
    progress.log(`There is no official libtorch archive for ${process.platform} on ${process.arch}.`);
    return undefined;
  }
  let scratch;
  try {
    mkdirSync(cacheFolder(), { recursive: true });
    scratch = mkdtempSync(join(cacheFolder(), "download-"));
    progress.log(`Downloading ${url}`);
    const archive = join(scratch, "libtorch.zip");
    await downloadTo(archive, url, progress, signal);
    unzip(archive, scratch);
    rmSync(archive);
    // Somebody else may have finished the same download meanwhile. What is there otherwise is not whole.
    if (readLayout(join(target, "libtorch")) === undefined) {
      rmSync(target, { recursive: true, force: true });
      renameSync(scratch, target);
    }
    const libtorch = readLayout(join(target, "libtorch"));
    if (libtorch === undefined) throw new Error("the archive holds no libtorch");
    return { libtorch, origin: "downloaded" };
  } catch (error) {
    if (signal?.aborted) throw new Aborted();
    progress.log(`The download did not work: ${reasonOf(error)}.`);
    return undefined;
  } finally {
    if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true });
  }
}
