/** Which models a config names, and what is missing of them on this machine. */
import type { RunContext } from "../base/progress.js";
import { optionsOf } from "../base/registry.js";
import { fetchModel, resolveModel } from "../hub/index.js";
import { familyOf, modelFamilies, type ModelFamily } from "../pipeline/index.js";
import { rewards } from "../rewards/index.js";
import type { Config } from "./config/schema.js";

/** What of a config's models a command needs; the model that learns it needs always. */
export interface ModelUse {
  readonly rewards?: boolean;
  readonly evaluation?: boolean;
}

/** The models of rewards and measures, each once. */
export function scoringModels(config: Config, use: ModelUse): string[] {
  const paths: string[] = [];
  if (use.rewards === true) {
    for (const named of config.rewards) {
      const kind = rewards.get(named.name);
      paths.push(...(kind.models?.(optionsOf(kind, named)) ?? []));
    }
  }
  if (use.evaluation === true && config.eval.clip !== null) paths.push(config.eval.clip);
  return [...new Set(paths)];
}

/** Downloads every model that is named as on the hub and not there yet. @throws InputError for what is not to be had */
export async function fetchModels(config: Config, use: ModelUse, context: RunContext): Promise<void> {
  await fetchDiffusionModel(config.model, context);
  for (const path of scoringModels(config, use)) await fetchModel(path, {}, context);
}

type ModelPath = Pick<Config["model"], "path"> & Partial<Pick<Config["model"], "revision" | "variant" | "config">>;

/** Downloads a text-to-image model, and what it needs beside its own files. @returns where it is */
export async function fetchDiffusionModel(model: ModelPath, context: RunContext): Promise<string> {
  const { path, config, ...form } = model;
  const layouts = modelFamilies.entries().flatMap(({ repository }) => repository ?? []);
  const found = await fetchModel(path, { ...form, layouts }, context);
  const companion = familyOf(found).companion?.(found, config ?? undefined);
  if (companion !== undefined) await fetchModel(companion.path, { purpose: companion.purpose, layouts }, context);
  return found;
}

/** Where a text-to-image model is on this machine, of which family, and where what it needs besides is. */
export function locateDiffusionModel({ path, config, revision }: ModelPath): {
  readonly folder: string;
  readonly family: ModelFamily;
  readonly config: string | undefined;
} {
  const folder = resolveModel(path, { revision });
  const family = familyOf(folder);
  const companion = family.companion?.(folder, config ?? undefined);
  return { folder, family, config: companion && resolveModel(companion.path) };
}
