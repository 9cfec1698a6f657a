/**
 * The command line. Exit codes: 0 success, 1 a bug, 2 bad input (one clear message on stderr, no partial
 * output), 130 interrupted.
 *
 * Commands import what they need when they run: `--help`, `b2 config` and every refusal of arguments work without
 * libtorch, and answer at once.
 */
import { Command, CommanderError } from "commander";
import { cutOff } from "../base/process-end.js";
import { addAnnotateCommand } from "./commands/annotate.js";
import { addCompareCommand } from "./commands/compare.js";
import { addConfigCommands } from "./commands/config.js";
import { addDoctorCommand } from "./commands/doctor.js";
import { addEvalCommand } from "./commands/eval.js";
import { addGenerateCommand } from "./commands/generate.js";
import { addLaunchCommand } from "./commands/launch.js";
import { addModelCommands } from "./commands/model.js";
import { addNewCommands } from "./commands/new.js";
import { addProbeCommand } from "./commands/probe.js";
import { addPromptsCommand } from "./commands/prompts.js";
import { addRewardsCommand } from "./commands/rewards.js";
import { addRunCommand } from "./commands/run.js";
import { addRunsCommand } from "./commands/runs.js";
import { addScoreCommand } from "./commands/score.js";
import { addSetupCommand } from "./commands/setup.js";
import { addStageCommands } from "./commands/stage.js";
import { exitCodeOf, report } from "./errors.js";
import { printEvent } from "./events.js";
import { example } from "./help.js";
import { loadEntriesHelp } from "./options.js";
import { guardStreams, printError, printOut } from "./terminal.js";
import { version } from "./version.js";

/** The whole command line, ready to parse. */
export function createProgram(): Command {
  const program = new Command("b2")
    .description("Reinforcement learning that makes text-to-image diffusion models follow their prompts (B2-DiffuRL).")
    .version(version())
    .option("--debug", "print the stack and the causes of every error; the same as B2_DEBUG=1")
    .addHelpText("after", example("b2 run runs/demo --preset demo"))
    .showSuggestionAfterError()
    .exitOverride()
    .configureOutput({ writeOut: printOut, writeErr: printError })
    .configureHelp({ sortSubcommands: false });
  addRunCommand(program);
  addLaunchCommand(program);
  addRunsCommand(program);
  addCompareCommand(program);
  addAnnotateCommand(program);
  addStageCommands(program);
  addGenerateCommand(program);
  addEvalCommand(program);
  addScoreCommand(program);
  addProbeCommand(program);
  addModelCommands(program);
  addConfigCommands(program);
  addPromptsCommand(program);
  addRewardsCommand(program);
  addNewCommands(program);
  addSetupCommand(program);
  addDoctorCommand(program);
  return program;
}

/** Parses the arguments, runs the command and sets the exit code. */
export async function main(argv: readonly string[]): Promise<void> {
  const program = createProgram();
  // Not from the options, which are unknown where parsing them fails.
  const json = argv.includes("--json");
  guardStreams();
  const stopWatching = refuseSilence(json);
  try {
    // Commander writes help synchronously, so what it needs is loaded before. The help of b2 itself needs nothing.
    const words = argv.slice(2);
    if (words.length > 1 && words.some((word) => ["help", "--help", "-h"].includes(word))) await loadEntriesHelp();
    await program.parseAsync([...argv]);
  } catch (error) {
    // Commander has printed its own message, or the help that was asked for.
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      if (json && error.exitCode !== 0) {
        printEvent({ type: "error", exitCode: 2, message: error.message.replace(/^error: /, "") });
      }
    } else {
      report(error, { debug: program.opts()["debug"] === true || process.env["B2_DEBUG"] === "1", json });
      process.exitCode = exitCodeOf(error);
    }
  }
  stopWatching();
}

/**
 * Says something where the process ends in the midst of the work: because nothing is left that could happen, or because a
 * module called process.exit.
 *
 * @returns what to call when the work is done
 */
function refuseSilence(json: boolean): () => void {
  let isIdle = false;
  const onIdle = (): void => void (isIdle = true);
  const onExit = (code: number): void => {
    if (code === 130) {
      // The second Ctrl-C.
      if (json) printEvent({ type: "error", exitCode: 130, message: "Interrupted" });
      return;
    }
    const sentences = cutOff();
    const message =
      sentences.length > 0
        ? sentences.join("\n")
        : isIdle
          ? "Expected the work to go on but it waits for something that can no longer happen; a reward or a plugin may be at fault"
          : `Expected the work to go on but something ended the process with code ${code}; does a reward or a plugin call process.exit?`;
    const exitCode = sentences.length > 0 ? 2 : code === 0 || isIdle ? 1 : code;
    printError(`b2: ${message}\n`);
    if (json) printEvent({ type: "error", exitCode, message });
    process.exitCode = exitCode;
  };
  process.on("beforeExit", onIdle);
  process.on("exit", onExit);
  return () => {
    process.off("beforeExit", onIdle);
    process.off("exit", onExit);
  };
}
