/** The models that a config names: downloading them, and finding them on this machine. */
import { warn, type Progress, type RunContext } from "../base/progress.js";
import { optionsOf } from "../base/registry.js";
import { fetchModel, resolveModel } from "../hub/index.js";
import { familyOf, modelFamilies, type ModelFamily } from "../pipeline/index.js";
import { rewards } from "../rewards/index.js";
import type { Config } from "./config/schema.js";

/** Which scoring models a command needs; every command needs the diffusion model. */
export interface ModelUse {
  readonly rewards?: boolean;
  readonly evaluation?: boolean;
}

/** The models of rewards and evaluation, without duplicates. */
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

/** The model that comes along, and its CLIP, which knows no words but those of its small world. */
const TOY = { model: "models/emoji", clip: "models/emoji-clip" } as const;

/** Warns of another model that is scored with the embedded model's CLIP, as the defaults would. */
export function warnOfToyClip(config: Config, progress: Progress): void {
  const { path } = config.model;
  if (path === TOY.model || !scoringModels(config, { rewards: true }).includes(TOY.clip)) return;
  const text =
    `${path} is scored with ${TOY.clip}, which knows the embedded model's small world alone; ` +
    "--preset sd has a reward for other models, and rewards.0.model names its CLIP";
  warn(progress, { kind: "toy-clip", text });
}

/** Downloads every model that is named by its hub name and not cached yet. @throws InputError where that fails */
export async function fetchModels(config: Config, use: ModelUse, context: RunContext): Promise<void> {
  await fetchDiffusionModel(config.model, context);
  for (const path of scoringModels(config, use)) await fetchModel(path, {}, context);
}

type ModelPath = Pick<Config["model"], "path"> & Partial<Pick<Config["model"], "revision" | "variant" | "config">>;

/**
 * Downloads a text-to-image model; for a single-file checkpoint also the tokenizer and configs it lacks.
 *
 * @returns the local path
 */
export async function fetchDiffusionModel(model: ModelPath, context: RunContext): Promise<string> {
  const { path, config, ...form } = model;
  const layouts = modelFamilies.entries().flatMap(({ repository }) => repository ?? []);
  const found = await fetchModel(path, { ...form, layouts }, context);
  const companion = familyOf(found).companion?.(found, config ?? undefined);
  if (companion !== undefined) await fetchModel(companion.path, { purpose: companion.purpose, layouts }, context);
  return found;
}

/** Where a text-to-image model is on this machine, its family, and the folder of configs that a single file needs. */
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
