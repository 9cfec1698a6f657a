/**
 * Options that several commands share, and the config they make. The schema and the registries are loaded when a config is
 * made: they take longer than all else that help, or a refused option, needs.
 */
import { resolve } from "node:path";
import { InvalidArgumentError, Option, type Command } from "commander";
import { presets, type PresetName } from "../b2/config/presets.js";
import type { Config } from "../b2/config/schema.js";
import { InputError } from "../base/errors.js";
import { layout } from "../runs/layout.js";
import { RunReader } from "../runs/reader.js";

/** Options that set config values. */
export interface ConfigOptions {
  readonly preset: readonly PresetName[];
  readonly config: readonly string[];
  readonly set: readonly string[];
  readonly plugin: readonly string[];
  readonly device?: string;
  readonly dtype?: string;
}

/** Adds --preset, --config, --set, --plugin, --device and --dtype. */
export function addConfigOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--preset <name>", "values to start from; repeatable, later ones override earlier ones")
        .choices(Object.keys(presets))
        .default([])
        .argParser((name, previous: readonly string[]) => [...previous, knownPreset(name)]),
    )
    .option(
      "--config <file>",
      "YAML or JSON file with any part of the config; repeatable, overrides the presets",
      collect,
      [],
    )
    .option("--set <key=value>", "one value, such as branch.count=5; repeatable, overrides the files", collect, [])
    .option("--plugin <module>", "a module that registers rewards, objectives and the like; repeatable", collect, [])
    .option("--device <name>", "cpu, cuda, cuda:<index> or mps; the same as --set model.device=<name>")
    .option("--dtype <name>", "float32, bfloat16 or float16; the same as --set model.dtype=<name>")
    .addHelpText("after", () => entriesHelp);
}

/** What `rewards`, `objective.name` and the like can name: those that come with the project. Empty until it is loaded. */
let entriesHelp = "";

/** Makes the help of commands with config options complete; to be called before it is printed. */
export async function loadEntriesHelp(): Promise<void> {
  const { registries } = await import("../b2/config/sections.js");
  const { modelFamilies } = await import("../pipeline/index.js");
  const kinds = [...Object.entries(registries), ["model families", modelFamilies] as const];
  const width = Math.max(...kinds.map(([key]) => key.length));
  const lines = kinds.map(([key, registry]) => `  ${key.padEnd(width)}  ${registry.names().join(", ")}`);
  entriesHelp = `\nWhat a config can name, besides what plugins bring (docs/config.md):\n${lines.join("\n")}`;
}

/** Layers of a config besides the options. */
export interface ConfigLayers {
  /** Overridden by all options: the config of a run. */
  readonly base?: object;
  /** Overrides all options. */
  readonly last?: object;
}

/**
 * The config that the options make. Plugins that any layer names are loaded first, because they may add keys.
 *
 * @throws ConfigError naming every problem; InputError for a plugin that does not load
 */
export async function configFromOptions(
  options: ConfigOptions,
  { base = {}, last = {} }: ConfigLayers = {},
): Promise<Config> {
  const { mergeLayers, parseAssignments, readConfigFile, resolveConfig } = await import("../b2/config/resolve.js");
  const { loadPlugins } = await import("../b2/plugins.js");
  const { preset, config, set, plugin, device, dtype } = options;
  const layers = [
    base,
    ...preset.map((name) => presets[name]),
    ...config.map(readConfigFile),
    parseAssignments(set),
    { model: { device, dtype } },
    last,
  ];
  const named = mergeLayers(...layers)["plugins"];
  // Absolute, so that a run can be resumed from any working folder.
  const plugins = [
    ...new Set([...(Array.isArray(named) ? named.map(String) : []), ...plugin].map((path) => resolve(path))),
  ];
  await loadPlugins(plugins);
  return resolveConfig(...layers, plugins.length === 0 ? {} : { plugins });
}

/** For commands that do not train: sample.steps may change without the training interval having to fit it. */
export const untrained = { interval: { first: null, last: null, skipLast: 0 } };

/**
 * The config for a run folder: from the options alone if they name a preset or a file; otherwise the config of the run
 * in the folder, changed by the options.
 *
 * @throws InputError when there is neither; ConfigError naming every problem
 */
export async function configOfRun(folder: string, options: ConfigOptions): Promise<Config> {
  const { preset, config, set } = options;
  const begun = RunReader.exists(folder) ? await configOfRunIn(folder) : undefined;
  if (preset.length > 0 || config.length > 0) {
    // What the run was begun with has to be read as well, to be compared: its plugins come along.
    const { plugins = [] } = (begun ?? {}) as { plugins?: readonly string[] };
    return configFromOptions({ ...options, plugin: [...options.plugin, ...plugins] });
  }
  if (begun !== undefined) return configFromOptions(options, { base: begun });
  if (set.length > 0) return configFromOptions(options);
  throw new InputError(
    `Expected a run in ${folder}, or --preset, --config or --set to begin one there, but received none of them`,
  );
}

/** The config that a run was begun with, as a layer whose problems name the file. */
export async function configOfRunIn(folder: string): Promise<object> {
  const { comesFrom } = await import("../b2/config/config-file.js");
  return comesFrom(layout.config(folder), new RunReader(folder).config());
}

/** Parses a whole number from `minimum` to `maximum`. */
export const wholeNumber =
  (minimum: number, maximum = 1_000_000) =>
  (text: string): number => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum) {
      throw new InvalidArgumentError(`Expected a whole number of at least ${minimum} but received ${text}.`);
    }
    if (value > maximum) throw new InvalidArgumentError(`Expected at most ${maximum} but received ${text}.`);
    return value;
  };

/** Refuses products of counts that would fill the memory. @throws InputError naming the options */
export function expectFewImages(count: number, options: string): void {
  if (count <= 1_000_000) return;
  throw new InputError(`Expected at most 1000000 images from ${options} together but received ${count}`);
}

export const collect = (value: string, previous: readonly string[]): string[] => [...previous, value];

function knownPreset(name: string): string {
  if (Object.hasOwn(presets, name)) return name;
  throw new InvalidArgumentError(`Allowed choices are ${Object.keys(presets).join(", ")}.`);
}
