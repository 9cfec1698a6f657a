/** What scripts/libtorch reads off a libtorch folder. */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { temporaryFolder } from "./support/folders.js";

const { readLayout } = (await import(pathToFileURL(resolve("scripts/libtorch/layout.mjs")).href)) as {
  readLayout: (folder: string) => { libraryFolder: string; libraries: string[] } | undefined;
};

const skip = process.platform !== "linux" || spawnSync("cc", ["--version"]).status !== 0 ? "no cc on a Linux" : false;

test("the addon of a CUDA build is linked with CUDA's libraries, though it calls nothing of theirs", { skip }, () => {
  const root = temporaryFolder();
  const at = (name: string, text = ""): string => {
    const file = join(root, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
    return file;
  };
  const parts = ["MAJOR 2", "MINOR 13", "PATCH 0"];
  at("include/torch/csrc/api/include/torch/version.h", parts.map((part) => `#define TORCH_VERSION_${part}\n`).join(""));
  at("include/ATen/ATen.h");
  const empty = at("empty.c");
  const cc = (...args: string[]): void => void execFileSync("cc", ["-shared", ...args, empty]);
  mkdirSync(join(root, "lib"));
  const names = ["torch", "torch_cpu", "c10", "torch_cuda", "c10_cuda"].map((name) => `lib${name}.so`);
  for (const name of names) cc("-o", join(root, "lib", name));

  const { libraryFolder, libraries } = readLayout(root)!;
  const addon = join(root, "addon.so");
  // As a distribution's compiler may have it by default: what is not called is dropped.
  execFileSync("cc", ["-shared", "-o", addon, empty, "-Wl,--as-needed", `-L${libraryFolder}`, ...libraries]);
  const linked = readFileSync(addon, "latin1");
  for (const name of names) assert.ok(linked.includes(`\0${name}\0`), name);
});
