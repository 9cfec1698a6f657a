/** `b2 rewards`: the rewards that a config can name. */
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import type { RewardKind } from "../../rewards/index.js";
import { example } from "../help.js";
import { collect } from "../options.js";
import { columns } from "../table.js";
import { printOut } from "../terminal.js";

interface RewardsOptions {
  readonly plugin: readonly string[];
  readonly markdown?: true;
}

export function addRewardsCommand(program: Command): void {
  program
    .command("rewards [name]")
    .description("List the rewards, or show the options, range, source, cost and licence of one.")
    .option("--plugin <module>", "a module that registers rewards, which are listed too; repeatable", collect, [])
    .option("--markdown", "print the page of all rewards (docs/rewards.md) instead")
    .addHelpText("after", example("b2 rewards", "b2 rewards clip-score", "b2 rewards colour --plugin ./colour.js"))
    .action(async (name: string | undefined, { plugin, markdown }: RewardsOptions) => {
      if (name !== undefined && markdown) throw new InputError("Expected no name with --markdown but received both");
      const { loadPlugins } = await import("../../b2/plugins.js");
      const { rewards } = await import("../../rewards/index.js");
      await loadPlugins(plugin);
      if (markdown) printOut((await import("../../b2/config/rewards-docs.js")).rewardsMarkdown());
      else if (name !== undefined) printOut(await rewardText(rewards.get(name)));
      else printOut(listText(rewards.entries()));
    });
}

function listText(kinds: readonly RewardKind[]): string {
  const width = Math.max(...kinds.map(({ name }) => name.length));
  return kinds.map(({ name, summary }) => `${name.padEnd(width)}  ${summary}\n`).join("");
}

async function rewardText(kind: RewardKind): Promise<string> {
  const { factsOf, optionsIn } = await import("../../b2/config/rewards-docs.js");
  const { defaultOf, valuesOf } = await import("../../b2/config/docs.js");
  const facts = factsOf(kind).map(([name, fact]) => `  ${name.padEnd(8)} ${fact}\n`);
  const options = optionsIn(kind).map(([key, schema]) => {
    const values = valuesOf(schema).replaceAll("`", "");
    return [key, values, defaultOf(schema).replaceAll("`", ""), schema.description ?? ""];
  });
  const table = options.length === 0 ? "no options" : columns([["option", "values", "default", "meaning"], ...options]);
  return `${kind.name}: ${kind.summary}\n${facts.join("")}\n${table}\n`;
}
