/** What checks.ts asks of other programs, each asked once. */
import { existsSync, readdirSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { readJsonObject } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";
import { chosenAddon } from "../torch/environment.js";
import type { ImageFacts, TorchFacts } from "./facts.js";
import { run } from "./run.js";

/** What was asked for, or in words why it did not come. */
export type Asked<T> = T | { readonly failure: string };

export const failed = <T extends object>(asked: Asked<T>): asked is { readonly failure: string } => "failure" in asked;

/** A folder of libtorch, as scripts/libtorch/layout.mjs reads it. */
export interface Libtorch {
  readonly root: string;
  readonly version: string;
  readonly libraries: readonly string[];
  readonly defines: readonly string[];
}

export interface Machine {
  /** package.json. */
  readonly manifest: Readonly<Record<string, unknown>>;
  /** The addon's build. */
  readonly build: AddonBuild;
  /** libtorch, as the addon loads it. */
  readonly torch: Asked<TorchFacts>;
  readonly images: Asked<ImageFacts>;
  readonly nvidiaSmi: Asked<{ readonly gpus: readonly Gpu[] }>;
}

/** Asks everything at once, since each answer can take seconds. */
export async function inspectMachine(): Promise<Machine> {
  const [torch, images, nvidiaSmi] = [probe<TorchFacts>("torch"), probe<ImageFacts>("images"), askNvidiaSmi()];
  return {
    manifest: readJsonObject(join(packageRoot(), "package.json")),
    build: await addonBuild(),
    torch: await torch,
    images: await images,
    nvidiaSmi: await nvidiaSmi,
  };
}

/** CUDA's libraries are gigabytes, which may come from a slow disk. */
const PROBE_SECONDS = 60;

async function probe<T extends object>(what: "torch" | "images"): Promise<Asked<T>> {
  const ran = await run(process.execPath, [fileURLToPath(new URL("probe.js", import.meta.url)), what], PROBE_SECONDS);
  if (!("output" in ran)) return { failure: ran.failure };
  try {
    return JSON.parse(ran.output) as T;
  } catch {
    return { failure: "what it printed is not JSON" };
  }
}

export interface Gpu {
  readonly name: string;
  readonly driver: string;
  /** As "143771 MiB"; some GPUs have no memory of their own. */
  readonly memory: string;
  readonly used: string;
}

async function askNvidiaSmi(): Promise<Asked<{ readonly gpus: readonly Gpu[] }>> {
  const fields = ["name", "driver_version", "memory.total", "memory.used"];
  const ran = await run("nvidia-smi", [`--query-gpu=${fields.join(",")}`, "--format=csv,noheader"]);
  if (!("output" in ran)) {
    return { failure: ran.missing ? "nvidia-smi is not here" : `nvidia-smi does not work: ${ran.failure}` };
  }
  const lines = ran.output.split("\n").filter((line) => line.trim() !== "");
  const rows = lines.map((line) => line.split(",").map((cell) => cell.trim()));
  if (rows.some(({ length }) => length !== fields.length)) {
    return { failure: "nvidia-smi answers with something else than a list of GPUs" };
  }
  return { gpus: rows.map(([name, driver, memory, used]) => ({ name, driver, memory, used }) as Gpu) };
}

/** Which build of the addon is meant, and whether it exists. */
export interface AddonBuild {
  /** The libtorch that it is for: that of LIBTORCH, else the one that was set up last. */
  readonly root: string | undefined;
  /** Its version when the addon was built; undefined for that of LIBTORCH. */
  readonly version: string | undefined;
  readonly exists: boolean;
  /** What is in the folder of the libtorch now; undefined where nothing can be built for it. */
  readonly libtorch: Libtorch | undefined;
}

async function addonBuild(): Promise<AddonBuild> {
  const builds = join(packageRoot(), "build");
  const asked = chosenAddon().libtorch;
  const current = asked === undefined ? readOrEmpty(join(builds, "current.json")) : { root: asked };
  const { root: chosen, version } = current as { root?: string; version?: string };
  const root = chosen !== undefined && existsSync(chosen) ? realpathSync(chosen) : chosen;
  const folders = existsSync(builds) ? readdirSync(builds).map((name) => join(builds, name)) : [];
  const exists = folders.some(
    (folder) => existsSync(join(folder, "torch.node")) && readOrEmpty(join(folder, "build.json"))["root"] === root,
  );
  return { root, version, exists, libtorch: root === undefined ? undefined : await libtorchIn(root) };
}

async function libtorchIn(root: string): Promise<Libtorch | undefined> {
  const layout = pathToFileURL(join(packageRoot(), "scripts/libtorch/layout.mjs"));
  const { readLayout } = (await import(layout.href)) as { readLayout: (folder: string) => Libtorch | undefined };
  try {
    return readLayout(root);
  } catch {
    return undefined; // not ours to read
  }
}

function readOrEmpty(file: string): Record<string, unknown> {
  try {
    return readJsonObject(file);
  } catch {
    return {};
  }
}
