/** `b2 config` and `b2 presets`: print configs and presets without running anything. */
import type { Command } from "commander";
import { configMarkdown } from "../../b2/config/docs.js";
import { presetSummaries } from "../../b2/config/presets.js";
import { example } from "../help.js";
import { addConfigOptions, configFromOptions, type ConfigOptions } from "../options.js";

export function addConfigCommands(program: Command): void {
  addConfigOptions(program.command("config"))
    .description("Print a resolved config as JSON, or list everything that is wrong with it.")
    .option("--markdown", "print the reference of all keys (docs/config.md) instead, including those of plugins")
    .addHelpText(
      "after",
      example("b2 config --preset demo --set branch.count=5 > mine.json", "b2 config --preset sd --preset ddpo"),
    )
    .action(async (options: ConfigOptions & { markdown?: true }) => {
      const config = await configFromOptions(options);
      process.stdout.write(options.markdown === true ? configMarkdown() : `${JSON.stringify(config, null, 2)}\n`);
    });

  program
    .command("presets")
    .description("List the presets.")
    .addHelpText("after", example("b2 presets"))
    .action(() => {
      const width = Math.max(...Object.keys(presetSummaries).map((name) => name.length));
      for (const [name, summary] of Object.entries(presetSummaries)) {
        process.stdout.write(`${name.padEnd(width)}  ${summary}\n`);
      }
    });
}
