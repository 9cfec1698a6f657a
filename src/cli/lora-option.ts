/** `--lora`: finished or running runs, LoRA files of any origin, or names on the hub; several add up. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import type { Config } from "../b2/config/schema.js";
import type { ModelUse } from "../b2/models.js";
import type { Policy } from "../b2/policy/policy.js";
import type { NamedWeights } from "../b2/policy/weights.js";
import type { RunContext } from "../base/progress.js";
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

/** `path:0.6`; a colon that no number follows is part of the path, as that of a drive. */
export function parseLora(text: string): NamedWeights {
  const [, path, weight] = /^(.+):(-?(?:\d+\.?\d*|\.\d+))$/.exec(text) ?? [];
  return path === undefined || existsSync(text) ? { path: text, weight: 1 } : { path, weight: Number(weight) };
}

/** The config of the options, over that of the run that a --lora names, where one does. */
export async function configFor(options: LoraOption & ConfigOptions, last: object = {}): Promise<Config> {
  const run = options.lora.map((text) => parseLora(text).path).find((path) => RunReader.exists(path));
  return configFromOptions(options, { ...(run !== undefined && { base: new RunReader(run).config() }), last });
}

/**
 * The model of a config, with the weights of --lora or the base weights alone; downloaded if need be.
 *
 * @param use what else the command will load, so that a download that fails does so now
 */
export async function loadPolicy(
  config: Config,
  { lora }: LoraOption,
  context: RunContext,
  use: ModelUse = {},
): Promise<Policy> {
  const { fetchModels } = await import("../b2/models.js");
  const { Policy } = await import("../b2/policy/policy.js");
  const { findWeights } = await import("../b2/policy/weights.js");
  const weights = await findWeights(lora.map(parseLora), context);
  await fetchModels(config, use, context);
  return Policy.forInference(config, weights);
}
