/**
 * The one place that writes to stdout and stderr, besides the progress bars. Text can come from files that nobody checked,
 * so control characters in it are escaped. Output that nobody reads any more does not stop the work.
 */
import { visible } from "../base/show.js";

/** Prints results. */
export const printOut = (text: string): void => void process.stdout.write(visible(text));

/** Prints words beside the results. */
export const printError = (text: string): void => void process.stderr.write(visible(text));

/**
 * Keeps a stream that cannot be written to from ending the process with a stack: `b2 presets | head -1`, a full disk
 * behind `> log`. A reader that has left is no mistake; for everything else there is a sentence, and exit code 2.
 */
export function guardStreams(): void {
  let told = false;
  process.stdout.on("error", ({ code, message }: NodeJS.ErrnoException) => {
    if (code === "EPIPE") return;
    process.exitCode = 2;
    if (!told) printError(`b2: Expected to write to stdout but received: ${message}\n`);
    told = true;
  });
  // Nothing is left to tell it to.
  process.stderr.on("error", () => undefined);
}
