/**
 * The command line. Exit codes: 0 done, 1 a fault of ours, 2 bad input (one clear message on stderr, nothing
 * half-written), 130 interrupted.
 *
 * Commands load what they need when they run, so that `--help` and `b2 config` answer without libtorch.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { addConfigCommands } from "./commands/config.js";
import { addEvalCommand } from "./commands/eval.js";
import { addGenerateCommand } from "./commands/generate.js";
import { addModelCommands } from "./commands/model.js";
import { addRunCommand } from "./commands/run.js";
import { addStageCommands } from "./commands/stage.js";
import { exitCodeOf, report } from "./errors.js";
import { example } from "./help.js";

/** The whole command line, ready to parse. */
export function createProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const program = new Command("b2")
    .description("Reinforcement learning that makes text-to-image diffusion models follow their prompts (B2-DiffuRL).")
    .version(version)
    .addHelpText("after", example("b2 run runs/demo --preset demo"))
    .showSuggestionAfterError()
    .exitOverride()
    .configureHelp({ sortSubcommands: false });
  addRunCommand(program);
  addStageCommands(program);
  addGenerateCommand(program);
  addEvalCommand(program);
  addModelCommands(program);
  addConfigCommands(program);
  return program;
}

/** Parses the arguments, runs the command and sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    await createProgram().parseAsync([...argv]);
  } catch (error) {
    // Commander has printed its own message, or the help that was asked for.
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else {
      report(error);
      process.exitCode = exitCodeOf(error);
    }
  }
}
