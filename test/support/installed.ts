/**
 * The package as npm would install it, in a project of its own: packed, unpacked, and beside it the packages that it
 * depends on and no others. Those are links to the repository's, so that no registry is needed.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { findAddon } from "../../src/torch/addon.js";
import type { Outcome } from "./cli.js";
import { repository } from "./folders.js";

/** A project that has the package in its node_modules. */
export interface Project {
  readonly folder: string;
  /** The package in it. */
  readonly installed: string;
}

/** Makes `folder` such a project, with no addon built. What is in dist/ is packed as it is. */
export function installInto(folder: string): Project {
  const installed = join(folder, "node_modules/b2-diffurl");
  mkdirSync(installed, { recursive: true });
  writeFileSync(join(folder, "package.json"), JSON.stringify({ name: "project", type: "module", private: true }));
  const pack = ["pack", "--ignore-scripts", "--json", "--pack-destination", folder];
  const packed = execFileSync("npm", pack, { cwd: repository, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const [{ filename }] = JSON.parse(packed) as [{ filename: string }];
  execFileSync("tar", ["-xzf", join(folder, filename), "-C", installed, "--strip-components", "1"]);
  for (const name of dependencies()) {
    const link = join(folder, "node_modules", name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join(repository, "node_modules", name), link);
  }
  return { folder, installed };
}

/** All packages that an install of the package brings, as far as this machine has them. */
function dependencies(): string[] {
  const { packages } = JSON.parse(readFileSync(join(repository, "package-lock.json"), "utf8")) as {
    packages: Record<string, { dev?: true; devOptional?: true }>;
  };
  return Object.entries(packages)
    .filter(([path, { dev, devOptional }]) => /^node_modules\/(@[^/]+\/)?[^/]+$/.test(path) && !dev && !devOptional)
    .map(([path]) => path.slice("node_modules/".length))
    .filter((name) => existsSync(join(repository, "node_modules", name)));
}

/** Gives the installed package the addon that the tests run on, as if it had been built there. */
export function copyAddon({ installed }: Project): void {
  const from = dirname(findAddon());
  const to = join(installed, "build", basename(from));
  mkdirSync(to, { recursive: true });
  for (const file of ["torch.node", "build.json", "fingerprint"]) copyFileSync(join(from, file), join(to, file));
  const { root } = JSON.parse(readFileSync(join(from, "build.json"), "utf8")) as { root: string };
  writeFileSync(join(installed, "build/current.json"), JSON.stringify({ root }));
}

/** Runs the project's `b2`, with variables set besides those of this process. */
export const b2Of = (project: Project, variables: NodeJS.ProcessEnv, ...args: string[]): Promise<Outcome> =>
  node(project, variables, join(project.installed, "bin/b2.js"), ...args);

/** Runs Node in a project's folder. */
export async function node(
  { folder }: Project,
  variables: NodeJS.ProcessEnv,
  ...args: readonly string[]
): Promise<Outcome> {
  const child = spawn(process.execPath, args, { cwd: folder, env: { ...process.env, ...variables } });
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => (texts[name] += text));
  }
  const [code] = (await once(child, "close")) as [number | null];
  return { code, ...texts };
}
