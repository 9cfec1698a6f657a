/** `b2 prompts`: the lists of prompts that a config can name, and what is in them. */
import type { Command } from "commander";
import { example } from "../help.js";
import { columns } from "../table.js";
import { printOut } from "../terminal.js";

export function addPromptsCommand(program: Command): void {
  program
    .command("prompts [list]")
    .description("List the lists of prompts that come with the package, or print the prompts of one or of a file.")
    .addHelpText(
      "after",
      example(
        "b2 prompts",
        "b2 prompts paper:activity/train > prompts.txt",
        "b2 run runs/mine --preset sd --set prompts.train=paper:colour/train --set prompts.heldOut=paper:colour/test",
      ),
    )
    .action(async (list: string | undefined) => {
      const { promptListNames, readPrompts } = await import("../../b2/rollout/prompts.js");
      if (list !== undefined) {
        printOut(`${readPrompts(list).join("\n")}\n`);
        return;
      }
      const lines = promptListNames().map((name) => {
        const prompts = readPrompts(name);
        return [name, String(prompts.length), prompts[0]!];
      });
      printOut(`${columns([["list", "prompts", "the first"], ...lines])}\n`);
    });
}
