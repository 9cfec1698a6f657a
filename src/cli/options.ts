/** Options that several commands share. */
import { type Command, InvalidArgumentError, Option } from "commander";
import type { Config } from "../b2/config.js";
import { InputError } from "../base/errors.js";
import { type PresetName, presets } from "../b2/presets.js";
import { parseAssignments, readConfigFile, resolveConfig } from "../b2/resolve-config.js";
import { RunReader } from "../runs/reader.js";

/** Config values, the commonest of them as options of their own. */
export interface ConfigOptions {
  readonly preset?: PresetName;
  readonly config?: string;
  readonly set: readonly string[];
  readonly device?: string;
  readonly dtype?: string;
}

/** --preset, --config, --set, and --device and --dtype, which say where and how to compute. */
export function addConfigOptions(command: Command): Command {
  return command
    .addOption(new Option("--preset <name>", "values to start from").choices(Object.keys(presets)))
    .option("--config <file>", "JSON file with any part of the config; overrides the preset")
    .option("--set <key=value>", "one value, such as branch.count=5; repeatable, overrides the file", collect, [])
    .option("--device <name>", "cpu, cuda, cuda:<index> or mps; the same as --set model.device=<name>")
    .option("--dtype <name>", "float32, bfloat16 or float16; the same as --set model.dtype=<name>");
}

/**
 * The config that the options amount to, over `base` where they name no preset.
 *
 * @param last values that count before all others
 * @throws ConfigError naming every problem
 */
export function configFromOptions(options: ConfigOptions, base: object = {}, last: object = {}): Config {
  const { preset, config, set, device, dtype } = options;
  return resolveConfig(
    preset === undefined ? base : presets[preset](),
    config === undefined ? {} : readConfigFile(config),
    parseAssignments(set),
    { model: { device, dtype } },
    last,
  );
}

/** For commands that train nothing: the interval that trains need not fit another number of steps. */
export const untrained = { interval: { first: 1, last: 1, skipLast: 0 } };

/** Whether any option says what to compute; --device and --dtype say where and how. */
const hasConfigOptions = ({ preset, config, set }: ConfigOptions): boolean =>
  preset !== undefined || config !== undefined || set.length > 0;

/**
 * The config of a run folder: that of the run in it, or that of the options for a new one.
 *
 * @throws InputError when there is neither; ConfigError naming every problem
 */
export function configOfRun(folder: string, options: ConfigOptions): Config {
  if (hasConfigOptions(options)) return configFromOptions(options);
  if (RunReader.exists(folder)) return configFromOptions(options, new RunReader(folder).config() as object);
  throw new InputError(
    `Expected a run in ${folder}, or --preset, --config or --set to begin one there, but received neither`,
  );
}

/** Parses a whole number of at least `minimum`. */
export const wholeNumber =
  (minimum: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum) {
      throw new InvalidArgumentError(`Expected a whole number of at least ${minimum} but received ${text}.`);
    }
    return value;
  };

export const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];
