/** The models that a config names: downloading them, and finding them on this machine. */
import { warn, type Progress, type RunContext } from "../base/progress.js";
import { optionsOf, type Named } from "../base/registry.js";
import { fetchModel, findModel, resolveModel } from "../hub/index.js";
import { familyOf, modelFamilies, type ModelFamily } from "../pipeline/index.js";
import { rewards, type NeededModel } from "../rewards/index.js";
import type { Config } from "./config/schema.js";

/** Which scoring models a command needs; every command needs the diffusion model. */
export interface ModelUse {
  readonly rewards?: boolean;
  readonly evaluation?: boolean;
}

/** The models of rewards and evaluation, each once: whole where one of them wants it whole. */
export function scoringModels(config: Config, use: ModelUse): NeededModel[] {
  const needed: NeededModel[] = [];
  if (use.rewards === true) needed.push(...config.rewards.flatMap(modelsOf));
  if (use.evaluation === true && config.eval.clip !== null) needed.push({ path: config.eval.clip });
  const byPath = new Map<string, NeededModel>();
  for (const model of needed) {
    if (!byPath.has(model.path) || model.purpose === undefined) byPath.set(model.path, model);
  }
  return [...byPath.values()];
}

/** The models of one reward of a config. */
export function modelsOf(named: Named): NeededModel[] {
  const kind = rewards.get(named.name);
  const models = kind.models?.(optionsOf(kind, named)) ?? [];
  return models.map((model) => (typeof model === "string" ? { path: model } : model));
}

/** The models that come along, and their CLIP, which knows no words but those of its small world. */
const TOY = { models: ["models/emoji", "models/emoji-flow"], clip: "models/emoji-clip" };

/** Warns of another model that is scored with the embedded model's CLIP, as the defaults would. */
export function warnOfToyClip(config: Config, progress: Progress): void {
  const { path } = config.model;
  if (TOY.models.includes(path) || !scoringModels(config, { rewards: true }).some((model) => model.path === TOY.clip))
    return;
  const text =
    `${path} is scored with ${TOY.clip}, which knows the embedded model's small world alone; ` +
    "--preset sd has a reward for other models, and rewards.0.model names its CLIP";
  warn(progress, { kind: "toy-clip", text });
}

/** Downloads every model that is named by its hub name and not cached yet. @throws InputError where that fails */
export async function fetchModels(config: Config, use: ModelUse, context: RunContext): Promise<void> {
  await fetchDiffusionModel(config.model, context);
  await fetchScoringModels(config, use, context);
}

/** The same for the models of rewards and evaluation alone. */
export async function fetchScoringModels(config: Config, use: ModelUse, context: RunContext): Promise<void> {
  for (const { path, purpose = "model" } of scoringModels(config, use)) await fetchModel(path, { purpose }, context);
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
  if (companion !== undefined) {
    const { path: place, ...wanted } = companion;
    await fetchModel(place, { ...wanted, layouts }, context);
  }
  return found;
}

/** The family of a config's model; the first one while the model is not on this machine. For estimates. */
export function familyOfConfig({ model }: Pick<Config, "model">): ModelFamily {
  const found = findModel(model.path, model);
  return found === undefined ? modelFamilies.entries()[0]! : familyOf(found);
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
