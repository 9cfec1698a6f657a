/**
 * The command line. Exit codes: 0 success, 1 a bug, 2 bad input (one clear message on stderr, no partial
 * output), 130 interrupted.
 *
 * Commands import what they need when they run, so that `--help` and `b2 config` work without libtorch.
 */
import { join } from "node:path";
import { Command, CommanderError } from "commander";
import { readJsonObject } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";
import { addCompareCommand } from "./commands/compare.js";
import { addConfigCommands } from "./commands/config.js";
import { addEvalCommand } from "./commands/eval.js";
import { addGenerateCommand } from "./commands/generate.js";
import { addModelCommands } from "./commands/model.js";
import { addProbeCommand } from "./commands/probe.js";
import { addPromptsCommand } from "./commands/prompts.js";
import { addRunCommand } from "./commands/run.js";
import { addStageCommands } from "./commands/stage.js";
import { exitCodeOf, report } from "./errors.js";
import { example } from "./help.js";

/** The whole command line, ready to parse. */
export function createProgram(): Command {
  const { version } = readJsonObject(join(packageRoot(), "package.json"));
  const program = new Command("b2")
    .description("Reinforcement learning that makes text-to-image diffusion models follow their prompts (B2-DiffuRL).")
    .version(String(version))
    .option("--debug", "print the stack and the causes of every error; the same as B2_DEBUG=1")
    .addHelpText("after", example("b2 run runs/demo --preset demo"))
    .showSuggestionAfterError()
    .exitOverride()
    .configureHelp({ sortSubcommands: false });
  addRunCommand(program);
  addCompareCommand(program);
  addStageCommands(program);
  addGenerateCommand(program);
  addEvalCommand(program);
  addProbeCommand(program);
  addModelCommands(program);
  addConfigCommands(program);
  addPromptsCommand(program);
  return program;
}

/** Parses the arguments, runs the command and sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  const program = createProgram();
  try {
    await program.parseAsync([...argv]);
  } catch (error) {
    // Commander has printed its own message, or the help that was asked for.
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else {
      report(error, { debug: program.opts()["debug"] === true || process.env["B2_DEBUG"] === "1" });
      process.exitCode = exitCodeOf(error);
    }
  }
}
