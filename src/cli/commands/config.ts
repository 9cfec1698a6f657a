/** `b2 config` and `b2 presets`: print configs and presets without running anything. */
import { join } from "node:path";
import type { Command } from "commander";
import { presetSummaries } from "../../b2/config/presets.js";
import type { Config } from "../../b2/config/schema.js";
import { InputError } from "../../base/errors.js";
import { packageRoot } from "../../base/package-root.js";
import { example } from "../help.js";
import { addConfigOptions, configFromOptions, type ConfigOptions } from "../options.js";
import { printOut } from "../terminal.js";

/** A config as YAML. The schema of this package does not know what plugins add, so it is named without them alone. */
async function configYaml(config: Config): Promise<string> {
  const { stringify } = await import("yaml");
  const { SCHEMA_FILE } = await import("../../b2/config/json-schema.js");
  const schema = `# yaml-language-server: $schema=${join(packageRoot(), SCHEMA_FILE)}\n`;
  return (config.plugins.length === 0 ? schema : "") + stringify(config, { lineWidth: 0 });
}

export function addConfigCommands(program: Command): void {
  addConfigOptions(program.command("config"))
    .description("Print a resolved config as JSON, or list everything that is wrong with it.")
    .option("--yaml", "print it as YAML, with the line by which editors find its schema")
    .option("--schema", "print the JSON Schema of config files instead, including what plugins add")
    .option("--markdown", "print the reference of all keys (docs/config.md) instead, including those of plugins")
    .addHelpText(
      "after",
      example(
        "b2 config --preset demo-b2 --set branch.count=5 --yaml > mine.yaml",
        "b2 config --preset sd --preset ddpo",
      ),
    )
    .action(async (options: ConfigOptions & { yaml?: true; schema?: true; markdown?: true }) => {
      const { yaml, schema, markdown } = options;
      if ([yaml, schema, markdown].filter(Boolean).length > 1) {
        throw new InputError("Expected one of --yaml, --schema and --markdown but received several");
      }
      const config = await configFromOptions(options);
      const inJson = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;
      if (schema) printOut(inJson((await import("../../b2/config/json-schema.js")).configJsonSchema()));
      else if (markdown) printOut((await import("../../b2/config/docs.js")).configMarkdown());
      else printOut(yaml ? await configYaml(config) : inJson(config));
    });

  program
    .command("presets")
    .description("List the presets.")
    .addHelpText("after", example("b2 presets"))
    .action(() => {
      const width = Math.max(...Object.keys(presetSummaries).map((name) => name.length));
      for (const [name, summary] of Object.entries(presetSummaries)) {
        printOut(`${name.padEnd(width)}  ${summary}\n`);
      }
    });
}
