/** `b2 setup`: finds or gets a libtorch and builds the native addon for it, where no install script has done so. */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Command } from "commander";
import { InputError, Interrupted } from "../../base/errors.js";
import { packageRoot } from "../../base/package-root.js";
import type { Progress } from "../../base/progress.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { duration, terminalProgress } from "../progress.js";

/** What scripts/libtorch/setup.mjs exports: plain JavaScript, because it also runs where nothing is compiled yet. */
interface SetupModule {
  setUp(options: { libtorch: string; progress: Progress; signal: AbortSignal }): Promise<Setup>;
}

interface Setup {
  readonly libtorch: { readonly version: string; readonly root: string; readonly origin: string };
  /** The file of the addon. */
  readonly addon: string;
  /** Whether it had to be built. */
  readonly built: boolean;
}

export function addSetupCommand(program: Command): void {
  program
    .command("setup")
    .description(
      "Find or get a libtorch, and build the native addon for it. Run again after another libtorch was installed.",
    )
    .option(
      "--libtorch <which>",
      "auto (LIBTORCH or B2_LIBTORCH, python3's, the system's, else a download), python, system, a folder, or an " +
        "official build to download: cpu, cu126 and so on",
      "auto",
    )
    .option("--json", "print the result as JSON")
    .addHelpText("after", example("b2 setup", "b2 setup --libtorch cu126", "b2 setup --libtorch /opt/libtorch"))
    .action(async ({ libtorch, json }: { libtorch: string; json?: true }) => {
      const started = performance.now();
      await interruptible("b2 setup begins again.", async (signal) => {
        const setup = await setUp(libtorch, signal);
        const took = duration((performance.now() - started) / 1000);
        const state = setup.built ? `built in ${took}` : "up to date";
        process.stdout.write(json === true ? `${JSON.stringify(setup, null, 2)}\n` : `The native addon is ${state}.\n`);
        const other = process.env["LIBTORCH"];
        if (libtorch !== "auto" && other) {
          process.stderr.write(
            `LIBTORCH is set, so b2 goes on using the libtorch in ${other}: unset it to use this one.\n`,
          );
        }
      });
    });
}

async function setUp(libtorch: string, signal: AbortSignal): Promise<Setup> {
  const file = join(packageRoot(), "scripts/libtorch/setup.mjs");
  const setup = (await import(pathToFileURL(file).href)) as SetupModule;
  try {
    return await setup.setUp({ libtorch, progress: terminalProgress(), signal });
  } catch (error) {
    if (signal.aborted) throw new Interrupted();
    if (error instanceof Error && error.name === "InstallError") throw new InputError(error.message, { cause: error });
    throw error;
  }
}
