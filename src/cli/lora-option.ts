/** `--lora`: run folders, LoRA files of any origin, or names on the hub; several are added together. */
import { existsSync } from "node:fs";
import type { Command } from "commander";
import type { Config } from "../b2/config/schema.js";
import type { ModelUse } from "../b2/models.js";
import type { Policy } from "../b2/policy/policy.js";
import type { NamedWeights } from "../b2/policy/weights.js";
import type { RunContext } from "../base/progress.js";
import { RunReader } from "../runs/reader.js";
import type { Device } from "../torch/index.js";
import { collect, configFromOptions, configOfRunIn, type ConfigOptions } from "./options.js";

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

/** Parses `path:0.6`. A colon without a number behind it is part of the path, as in a drive letter. */
export function parseLora(text: string): NamedWeights {
  const [, path, weight] = /^(.+):(-?(?:\d+\.?\d*|\.\d+))$/.exec(text) ?? [];
  return path === undefined || existsSync(text) ? { path: text, weight: 1 } : { path, weight: Number(weight) };
}

/** The config of the options, on top of the config of the first run that --lora names, if any. */
export async function configFor(options: LoraOption & ConfigOptions, last: object = {}): Promise<Config> {
  const run = options.lora.map((text) => parseLora(text).path).find((path) => RunReader.exists(path));
  return configFromOptions(options, { ...(run !== undefined && { base: await configOfRunIn(run) }), last });
}

/**
 * Checks the device of a config and the weights of --lora, before anything is downloaded, loaded or written.
 *
 * @returns the device
 * @throws InputError
 */
export async function checkPolicy(config: Config, { lora }: LoraOption): Promise<Device> {
  const { openDevice } = await import("../b2/policy/device.js");
  const { expectWeights } = await import("../b2/policy/weights.js");
  expectWeights(lora.map(parseLora));
  return openDevice(config);
}

/** The prompts of a command. */
interface PromptUse {
  /** To check their length. */
  readonly prompts?: readonly string[];
  /** Those that are drawn, see Policy.openForTraining. Default: all of them. */
  readonly uses?: readonly string[];
}

/**
 * Loads the model of a config with the weights of --lora, or with the base weights alone; downloads what is missing.
 *
 * @param use what else the command will load, so that a failing download is reported now; and its prompts
 */
export async function loadPolicy(
  config: Config,
  { lora }: LoraOption,
  context: RunContext,
  { prompts = [], uses = prompts, ...use }: ModelUse & PromptUse = {},
): Promise<Policy> {
  const { fetchModels } = await import("../b2/models.js");
  const { openDevice } = await import("../b2/policy/device.js");
  const { warnOfLongPrompts } = await import("../b2/policy/long-prompts.js");
  const { Policy } = await import("../b2/policy/policy.js");
  const { findWeights } = await import("../b2/policy/weights.js");
  openDevice(config); // before anything is downloaded
  const weights = await findWeights(lora.map(parseLora), context);
  await fetchModels(config, use, context);
  const policy = await Policy.openForInference(config, weights, uses, context);
  warnOfLongPrompts(policy.model, prompts, context.progress);
  return policy;
}
