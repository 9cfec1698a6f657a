/** `--lora`: a finished or running run, or a LoRA file of any origin. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Command } from "commander";
import type { Config } from "../b2/config.js";
import { InputError } from "../b2/input-error.js";
import type { LoadOptions, Policy } from "../b2/policy.js";
import { RunReader } from "../runs/reader.js";
import { configFromOptions, type ConfigOptions } from "./options.js";

export interface LoraOption {
  readonly lora?: string;
}

export const loraOption = (command: Command): Command =>
  command.option("--lora <path>", "a run folder (its latest stage, and its config), or a LoRA file or folder");

/** The config of the run that --lora names, unless options ask for another; undefined where it names no run. */
export function configOfLora(options: LoraOption & ConfigOptions): Config | undefined {
  if (options.lora === undefined || !RunReader.exists(options.lora)) return undefined;
  return configFromOptions(options, new RunReader(options.lora).config() as object);
}

/** The weights that --lora means: a LoRA, or a UNet's folder. @throws InputError when there are none */
function weightsOf(path: string): LoadOptions {
  const lora = (file: string): LoadOptions => ({ lora: [{ file, weight: 1 }] });
  if (RunReader.exists(path)) {
    const run = new RunReader(path);
    const last = run.finishedStages().at(-1);
    if (last === undefined)
      throw new InputError(`Expected a run with a finished stage for --lora but received ${path}`);
    if (run.has(last, "unet")) return { lora: [], unet: run.stagePath(last, "unet") };
    return lora(run.stagePath(last, "lora"));
  }
  if (!existsSync(path)) throw new InputError(`Expected a run folder or a LoRA file for --lora but received ${path}`);
  const inFolder = join(path, "pytorch_lora_weights.safetensors");
  return lora(existsSync(inFolder) ? inFolder : path);
}

/** The model of a config, with the weights of --lora or the base weights alone. */
export async function loadPolicy(config: Config, { lora }: LoraOption): Promise<Policy> {
  const weights = lora === undefined ? { lora: [] } : weightsOf(lora);
  const { Policy } = await import("../b2/policy.js");
  return Policy.load(config, weights);
}
