/** `b2 setup`: finds or gets a libtorch and builds the native addon for it, where no install script has done so. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Command } from "commander";
import { InputError, Interrupted } from "../../base/errors.js";
import { packageRoot } from "../../base/package-root.js";
import type { Progress } from "../../base/progress.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { duration } from "../progress.js";

/** What scripts/libtorch/setup.mjs exports: plain JavaScript, because it also runs where nothing is compiled yet. */
interface SetupModule {
  setUp(options: SetupContext & { readonly libtorch: string }): Promise<Setup>;
}

interface SetupContext {
  readonly progress: Progress;
  readonly signal: AbortSignal;
}

interface Setup {
  readonly libtorch: { readonly version: string; readonly root: string; readonly origin: string };
  /** The file of the addon. */
  readonly addon: string;
  /** Whether it had to be built. */
  readonly built: boolean;
}

export function addSetupCommand(program: Command): void {
  addOutputOptions(program.command("setup"))
    .description(
      "Find or get a libtorch, and build the native addon for it. Run again after another libtorch was installed.",
    )
    .option(
      "--libtorch <which>",
      "auto (LIBTORCH or B2_LIBTORCH, python3's, the system's, else a download), python, system, a folder, or an " +
        "official build to download: cpu, cu126 and so on",
      "auto",
    )
    .addHelpText("after", example("b2 setup", "b2 setup --libtorch cu126", "b2 setup --libtorch /opt/libtorch"))
    .action(async ({ libtorch, ...options }: OutputOptions & { libtorch: string }) => {
      const output = new Output("setup", options);
      output.started({ wanted: libtorch });
      await interruptible("b2 setup begins again.", async (signal) => {
        const setup = await setUp(libtorch, { progress: output.progress(), signal });
        output.print(`The native addon is ${setup.built ? `built in ${duration(output.seconds)}` : "up to date"}.\n`);
        const other = process.env["LIBTORCH"];
        if (libtorch !== "auto" && other) {
          output.say(`LIBTORCH is set, so b2 goes on using the libtorch in ${other}: unset it to use this one.\n`);
        }
        output.finished([setup.addon], { libtorch: setup.libtorch, built: setup.built });
      });
    });
}

async function setUp(libtorch: string, { progress, signal }: SetupContext): Promise<Setup> {
  const file = join(packageRoot(), "scripts/libtorch/setup.mjs");
  const setup = (await import(pathToFileURL(file).href)) as SetupModule;
  try {
    return await setup.setUp({ libtorch, progress, signal });
  } catch (error) {
    if (signal.aborted) throw new Interrupted();
    if (error instanceof Error && error.name === "InstallError") throw new InputError(error.message, { cause: error });
    throw error;
  }
}
