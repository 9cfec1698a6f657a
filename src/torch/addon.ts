/**
 * Where the native addon is. `b2 setup` builds one for each libtorch and kind, in a folder of build/ of its own; this file
 * finds the one that the environment asks for, and says in one sentence what is wrong where there is none to load.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { packageRoot } from "../base/package-root.js";
import { chosenAddon, type AddonKind } from "./environment.js";
import { AddonError } from "./error.js";

/** What scripts/libtorch/build.mjs writes beside each build. */
interface Build {
  /** The real path of the libtorch that the addon was built for. */
  readonly root: string;
  readonly kind: AddonKind;
  /** The libtorch's main library, and how long it was. Not in builds of older versions, like `sources`. */
  readonly library?: { readonly file: string; readonly bytes: number };
  /** A hash of what it was built from. */
  readonly sources?: string;
}

/** A file of build/; undefined where there is none, or none that is whole. */
function readRecord<T>(file: string): T | undefined {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as T;
  } catch {
    return undefined;
  }
}

/** A hash of native/ and binding.gyp, as scripts/libtorch/build.mjs writes it. */
function sourcesHash(): string {
  const hash = createHash("sha256");
  const sources = readdirSync(join(packageRoot(), "native")).sort();
  for (const file of [...sources.map((name) => join("native", name)), "binding.gyp"]) {
    hash.update(file).update(readFileSync(join(packageRoot(), file)));
  }
  return hash.digest("hex");
}

/** The folder of the build for a libtorch, and what is written there. */
function findBuild(builds: string, root: string, kind: AddonKind): { folder: string; build: Build } | undefined {
  for (const name of existsSync(builds) ? readdirSync(builds) : []) {
    const folder = join(builds, name);
    const build = readRecord<Build>(join(folder, "build.json"));
    if (build?.root === root && build.kind === kind && existsSync(join(folder, "torch.node"))) return { folder, build };
  }
  return undefined;
}

/** What is to be done about an addon that can't be used. Another libtorch than `root` may be found where it is left out. */
export const howToBuild = (root?: string): string =>
  `Run: npx b2 setup${root === undefined ? "" : ` --libtorch ${root}`}`;

/** Why a build that is there can't be used, and what to do; undefined where it can. */
function faultOf({ root, library, sources }: Build): string | undefined {
  const bytes = library && (existsSync(library.file) ? statSync(library.file).size : undefined);
  if (library !== undefined && bytes === undefined) {
    return `The libtorch that the native addon was built for, ${root}, is not there any more. ${howToBuild()}`;
  }
  if (library?.bytes !== bytes) {
    return `The libtorch in ${root} is not the one any more that the native addon was built for. ${howToBuild(root)}`;
  }
  if (sources !== undefined && sources !== sourcesHash()) {
    return `The native addon is out of date: native/ has changed since it was built. ${howToBuild(root)}`;
  }
  return undefined;
}

/**
 * The file of the addon that the environment asks for. Loads nothing, so commands can ask before they begin.
 *
 * @throws AddonError if it is not built, out of date, or its libtorch is gone or another one now
 */
export function findAddon(): string {
  const builds = join(packageRoot(), "build");
  const { libtorch, kind } = chosenAddon();
  const chosen = libtorch ?? readRecord<{ root: string }>(join(builds, "current.json"))?.root;
  const notBuilt = `The native addon, which calls libtorch, is not built. ${howToBuild()}`;
  if (chosen === undefined) throw new AddonError(notBuilt);
  const root = existsSync(chosen) ? realpathSync(chosen) : chosen;
  const found = findBuild(builds, root, kind);
  if (found === undefined) {
    throw new AddonError(
      kind === "debug"
        ? `There is no debug build of the native addon for ${root}. Run in a checkout: node scripts/install.mjs --debug`
        : libtorch === undefined
          ? notBuilt
          : `The native addon is not built for the libtorch that LIBTORCH names, ${libtorch}. ${howToBuild()}`,
    );
  }
  const fault = faultOf(found.build);
  if (fault !== undefined) throw new AddonError(fault);
  return join(found.folder, "torch.node");
}
