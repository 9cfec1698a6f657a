/** `--lora`: finished or running runs, LoRA files of any origin, or names on the hub; several add up. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import type { Config } from "../b2/config.js";
import { InputError } from "../base/errors.js";
import type { LoadOptions, Policy, WeightedLora } from "../b2/policy.js";
import type { RunContext } from "../base/progress.js";
import { isPickle, pickleRefused } from "../base/pickle.js";
import { RunReader } from "../runs/reader.js";
import { collect, configFromOptions, type ConfigOptions } from "./options.js";

export interface LoraOption {
  readonly lora: readonly string[];
}

export const loraOption = (command: Command): Command =>
  command.option(
    "--lora <path[:weight]>",
    "a run folder (its latest stage, and its config), a LoRA file or folder, or a name on the hub; repeatable",
    collect,
    [],
  );

/** What a --lora names, and what it counts for. */
interface NamedLora {
  readonly path: string;
  readonly weight: number;
}

/** `path:0.6`; a colon that no number follows is part of the path, as that of a drive. */
export function parseLora(text: string): NamedLora {
  const [, path, weight] = /^(.+):(-?(?:\d+\.?\d*|\.\d+))$/.exec(text) ?? [];
  return path === undefined || existsSync(text) ? { path: text, weight: 1 } : { path, weight: Number(weight) };
}

/** The config of the run that a --lora names, with what the options change; undefined where none names a run. */
export function configOfLora({ lora, ...options }: LoraOption & ConfigOptions, last: object = {}): Config | undefined {
  const run = lora.map((text) => parseLora(text).path).find((path) => RunReader.exists(path));
  return run === undefined ? undefined : configFromOptions(options, new RunReader(run).config() as object, last);
}

/** The file of the latest stage of a run: a LoRA, or a UNet's folder. @throws InputError when there is none */
export function weightsOfRun(folder: string): { readonly lora: string } | { readonly unet: string } {
  const run = new RunReader(folder);
  const last = run.finishedStages().at(-1);
  if (last === undefined) throw new InputError(`Expected a run with a finished stage but received ${folder}`);
  return run.has(last, "unet") ? { unet: run.stagePath(last, "unet") } : { lora: run.stagePath(last, "lora") };
}

/** @throws InputError when a path is neither a run nor a LoRA, or is to count a part for a UNet that is whole */
async function weightsOf(loras: readonly string[], context: RunContext): Promise<LoadOptions> {
  const files: WeightedLora[] = [];
  let unet: string | undefined;
  for (const text of loras) {
    const { path, weight } = parseLora(text);
    if (!RunReader.exists(path)) files.push({ file: await loraFile(path, context), weight });
    else {
      const weights = weightsOfRun(path);
      if ("lora" in weights) files.push({ file: weights.lora, weight });
      else if (weight === 1 && unet === undefined) ({ unet } = weights);
      else throw new InputError(`Expected one run that trained the whole UNet, without a weight, but received ${text}`);
    }
  }
  return { lora: files, unet };
}

async function loraFile(path: string, context: RunContext): Promise<string> {
  if (isPickle(path)) throw new InputError(pickleRefused(path));
  const { loraFileIn } = await import("../lora/index.js");
  const inFolder = loraFileIn(path);
  if (inFolder !== undefined) return inFolder;
  if (existsSync(path)) return path;
  const { parseHubName } = await import("../hub/index.js");
  if (parseHubName(path) === undefined) {
    throw new InputError(`Expected a run folder, a LoRA file or a name on the hub for --lora but received ${path}`);
  }
  const { fetchModel } = await import("../b2/model-folder.js");
  return fetchModel(path, { purpose: "weights" }, context);
}

/** The model of a config, with the weights of --lora or the base weights alone; downloaded if need be. */
export async function loadPolicy(config: Config, { lora }: LoraOption, context: RunContext): Promise<Policy> {
  const [{ fetchModels }, { Policy }] = [await import("../b2/model-folder.js"), await import("../b2/policy.js")];
  const weights = await weightsOf(lora, context);
  await fetchModels(config, context);
  return Policy.load(config, weights);
}
