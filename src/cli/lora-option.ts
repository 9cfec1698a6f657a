/** `--lora`: a finished or running run, or a LoRA file of any origin. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import type { Config } from "../b2/config.js";
import { InputError } from "../b2/input-error.js";
import type { Policy } from "../b2/policy.js";
import { resolveConfig } from "../b2/resolve-config.js";
import { RunReader } from "../runs/reader.js";
import { configFromOptions, type ConfigOptions, hasConfigOptions } from "./options.js";

export interface LoraOption {
  readonly lora?: string;
}

export const loraOption = (command: Command): Command =>
  command.option("--lora <path>", "a run folder (its latest stage, and its config), or a LoRA file or folder");

/** The config of the run that --lora names, unless options ask for another; undefined where it names no run. */
export function configOfLora(options: LoraOption & ConfigOptions): Config | undefined {
  if (options.lora === undefined || !RunReader.exists(options.lora)) return undefined;
  const saved = resolveConfig(new RunReader(options.lora).config());
  return hasConfigOptions(options) ? configFromOptions(options, saved) : saved;
}

/** The file that --lora means. @throws InputError when there is none */
function loraFile(path: string): string {
  if (RunReader.exists(path)) {
    const run = new RunReader(path);
    const last = run.finishedStages().at(-1);
    if (last === undefined)
      throw new InputError(`Expected a run with a finished stage for --lora but received ${path}`);
    return run.stagePath(last, "lora");
  }
  if (!existsSync(path)) throw new InputError(`Expected a run folder or a LoRA file for --lora but received ${path}`);
  const inFolder = join(path, "pytorch_lora_weights.safetensors");
  return existsSync(inFolder) ? inFolder : path;
}

/** The model of a config, with the weights of --lora or the base weights alone. */
export async function loadPolicy(config: Config, { lora }: LoraOption): Promise<Policy> {
  const file = lora === undefined ? undefined : loraFile(lora);
  const { Policy } = await import("../b2/policy.js");
  return Policy.load(config, { lora: file ?? "none" });
}
