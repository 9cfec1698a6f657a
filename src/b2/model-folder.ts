/**
 * Where the models of a config are: in the working folder, else among those that ship with the package, else in the
 * hub's cache, into which `fetchModels` brings what is missing before anything is loaded.
 */
import { existsSync } from "node:fs";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { cachedModel, downloadModel, HubError, parseHubName, type Purpose } from "../hub/index.js";
import { isPickle, pickleRefused } from "../base/pickle.js";
import type { Config } from "./config.js";
import { InputError } from "../base/errors.js";
import type { RunContext } from "../base/progress.js";

/** Where CLIP's tokenizer comes from for a checkpoint of one file, which has none. */
const CLIP_TOKENIZER = "openai/clip-vit-large-patch14";

/** Which form of a model on the hub. */
export interface HubForm {
  readonly revision?: string | null;
  readonly variant?: string | null;
  readonly purpose?: Purpose;
}

/**
 * The folder or file that a config's model path names.
 *
 * @throws InputError when there is none, saying where it was looked for, and for a pickle
 */
export function resolveModelFolder(path: string, { revision }: HubForm = {}): string {
  if (isPickle(path)) throw new InputError(pickleRefused(path));
  const places = localPlaces(path);
  const found = places.find((place) => existsSync(place)) ?? cachedModel(path, { revision: revision ?? undefined });
  if (found !== undefined) return found;
  const hub = parseHubName(path) === undefined ? "" : ", and in the hub's cache (`b2 download` brings it there)";
  throw new InputError(`Expected a model folder but received ${path}; looked for ${places.join(" and ")}${hub}`);
}

/** The folder whose configs and tokenizers serve a checkpoint of one file; undefined for a folder, which has its own. */
export function configFolderOf(path: string, config?: string | null): string | undefined {
  return path.endsWith(".safetensors") ? resolveModelFolder(config ?? CLIP_TOKENIZER) : undefined;
}

/**
 * Downloads a model that is named as on the hub, unless there is such a folder.
 *
 * @returns where it is
 * @throws InputError when it is neither here nor to be had from the hub
 */
export async function fetchModel(path: string, form: HubForm, { progress, signal }: RunContext): Promise<string> {
  const isLocal = localPlaces(path).some((place) => existsSync(place));
  if (isLocal || parseHubName(path) === undefined) return resolveModelFolder(path);
  const { revision, variant, purpose = "model" } = form;
  let task: ReturnType<typeof progress.task> | undefined;
  let [bytes, told] = [0, 0];
  try {
    return await downloadModel(path, {
      ...{ purpose, signal, revision: revision ?? undefined, variant: variant ?? undefined },
      onStart: (files, total) => {
        if (files === 0) return;
        progress.log(`downloading ${files} files of ${path}`);
        task = progress.task(path, Math.ceil(total / 1e6), "MB");
      },
      onBytes: (amount) => {
        bytes += amount;
        const whole = Math.floor(bytes / 1e6);
        if (whole !== told) task?.advance(whole - told);
        told = whole;
      },
    });
  } catch (error) {
    if (!(error instanceof HubError)) throw error;
    const places = localPlaces(path).join(" and ");
    throw new InputError(
      `Expected a model folder but received ${path}; looked for ${places}, and on the hub. ${error.message}`,
      { cause: error },
    );
  } finally {
    task?.done();
  }
}

/** Downloads a text-to-image model, and for one of a single file what that has not. @returns where it is */
export async function fetchPipeline(
  path: string,
  { config, ...form }: HubForm & Partial<Pick<Config["model"], "config">>,
  context: RunContext,
): Promise<string> {
  const found = await fetchModel(path, form, context);
  if (path.endsWith(".safetensors")) {
    await fetchModel(config ?? CLIP_TOKENIZER, { purpose: config ? "settings" : "tokenizer" }, context);
  }
  return found;
}

/** Downloads every model of a config that is named as on the hub and not there yet. */
export async function fetchModels(config: Config, context: RunContext): Promise<void> {
  const { model, reward, eval: evaluation } = config;
  await fetchPipeline(model.path, model, context);
  const judges = [
    ...(reward.name === "clip-score" ? [reward.model] : []),
    ...(reward.name.startsWith("clip:") ? [reward.name.slice("clip:".length)] : []),
    ...(evaluation.enabled && evaluation.clip !== null ? [evaluation.clip] : []),
  ];
  for (const path of new Set(judges)) await fetchModel(path, {}, context);
}

function localPlaces(path: string): string[] {
  return isAbsolute(path) ? [path] : [...new Set([resolve(path), join(packageRoot(), path)])];
}

function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}
