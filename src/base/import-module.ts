/** Loads a module that a user named: JavaScript, or TypeScript where this Node strips types by itself. */
import { extname } from "node:path";
import { pathToFileURL } from "node:url";
import { InputError } from "./errors.js";

/**
 * @param file an absolute path
 * @param purpose what it is for, in errors: "the reward"
 * @throws InputError with advice for a file that cannot be loaded as a module
 */
export async function importModule(file: string, purpose: string): Promise<Record<string, unknown>> {
  const isTypeScript = [".ts", ".mts", ".cts"].includes(extname(file));
  const stripsTypes = (process.features as { typescript?: unknown }).typescript;
  if (isTypeScript && (stripsTypes === undefined || stripsTypes === false)) {
    throw new InputError(
      `Expected a JavaScript module for ${purpose} but received ${file}: Node ${process.versions.node} does not strip types. ` +
        "Use Node 22.18 or later, start Node 22.7 with --experimental-strip-types, or compile the file with tsc",
    );
  }
  try {
    return (await import(pathToFileURL(file).href)) as Record<string, unknown>;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new InputError(`${file}: Expected a module for ${purpose} but loading it failed: ${message}`, { cause });
  }
}
