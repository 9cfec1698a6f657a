/** Classifies errors as user input, out of memory or internal, and tells them. */
import { InputError, Interrupted } from "../base/errors.js";
// Directly, because the index of that folder takes longer to load than all else that a refusal needs.
import { isOutOfMemory } from "../torch/error.js";
import { printEvent } from "./events.js";
import { printError } from "./terminal.js";

const LESS_MEMORY =
  "To use less memory, lower sample.batchSize, sample.decodeBatchSize or train.microBatch, or set " +
  "train.gradientCheckpointing=true or, on a GPU, model.offload=true; a run can be resumed with these. model.tiling=true and model.dtype=bfloat16 help " +
  "too, but need a new run";

/** The exit code: 2 for bad input, 130 for an interruption, 1 for everything else. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof InputError) return 2;
  return error instanceof Interrupted ? 130 : 1;
}

/**
 * Prints an error on stderr: only the message for bad input, the stack for a bug.
 *
 * @param options.debug always print the stack, with all causes
 * @param options.json also print an event on stdout
 */
export function report(
  error: unknown,
  { debug = false, json = false }: { debug?: boolean; json?: boolean } = {},
): void {
  const print = (text: string): void => printError(`b2: ${text.split("\n").map(shortened).join("\n")}\n`);
  if (debug) print(withCauses(error) + (isOutOfMemory(error) ? `\n${LESS_MEMORY}` : ""));
  else if (!(error instanceof Interrupted)) {
    const stack = error instanceof Error && !(error instanceof InputError) && !isOutOfMemory(error) && error.stack;
    print(stack || messageOf(error));
  }
  if (json) {
    const message = messageOf(error).split("\n").map(shortened).join("\n");
    printEvent({ type: "error", exitCode: exitCodeOf(error), message });
  }
}

/** What the error says to people. */
function messageOf(error: unknown): string {
  if (isOutOfMemory(error)) return `${error.message.split("\n", 1)[0]}\n${LESS_MEMORY}`;
  return error instanceof Error ? error.message : String(error);
}

const MOST_CHARACTERS = 1000;

/** A key of a damaged file may be a megabyte long. */
const shortened = (line: string): string =>
  line.length <= MOST_CHARACTERS
    ? line
    : `${line.slice(0, MOST_CHARACTERS - 200)} ... (${line.length - MOST_CHARACTERS} characters) ... ${line.slice(-200)}`;

function withCauses(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by ${withCauses(error.cause)}`;
}
