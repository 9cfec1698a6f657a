/** Classifies errors as user input, out of memory or internal, and prints them. */
import { InputError, Interrupted } from "../base/errors.js";
import { TorchError } from "../torch/index.js";

const LESS_MEMORY =
  "To use less memory, lower sample.batchSize, sample.decodeBatchSize or train.microBatch, or set " +
  "train.gradientCheckpointing=true; a run can be resumed with these. model.tiling=true and model.dtype=bfloat16 help " +
  "too, but need a new run";

/** Matches the messages of libtorch on any device, and of this project's own allocator. */
const isOutOfMemory = (error: unknown): error is TorchError =>
  error instanceof TorchError && error.message.includes("out of memory");

/** The exit code: 2 for bad input, 130 for an interruption, 1 for everything else. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof InputError) return 2;
  return error instanceof Interrupted ? 130 : 1;
}

/**
 * Prints an error on stderr: only the message for bad input, the stack for a bug.
 *
 * @param options.debug always print the stack, with all causes
 */
export function report(error: unknown, { debug = false }: { debug?: boolean } = {}): void {
  const print = (text: string): void => void process.stderr.write(`b2: ${text}\n`);
  if (debug) print(withCauses(error) + (isOutOfMemory(error) ? `\n${LESS_MEMORY}` : ""));
  else if (error instanceof InputError) print(error.message);
  else if (isOutOfMemory(error)) print(`${error.message.split("\n", 1)[0]}\n${LESS_MEMORY}`);
  else if (!(error instanceof Interrupted))
    print(error instanceof Error ? (error.stack ?? error.message) : String(error));
}

function withCauses(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? error.message;
  return error.cause === undefined ? own : `${own}\ncaused by ${withCauses(error.cause)}`;
}
