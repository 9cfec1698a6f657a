/** Classifies errors as user input, out of memory or internal, and prints them. */
import { InputError, Interrupted } from "../base/errors.js";
import { TorchError } from "../torch/index.js";

const LESS_MEMORY =
  "Less is needed with smaller sample.batchSize, sample.decodeBatchSize and train.microBatch, and with " +
  "train.gradientCheckpointing=true, under which a run that is begun goes on; and with model.tiling=true and " +
  "model.dtype=bfloat16, which want a run of their own";

/** libtorch's words for it on any device, and those of our own allocator. */
const isOutOfMemory = (error: unknown): error is TorchError =>
  error instanceof TorchError && error.message.includes("out of memory");

/** 2 for bad input, 130 for an interruption, 1 for everything else. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof InputError) return 2;
  return error instanceof Interrupted ? 130 : 1;
}

/**
 * Prints an error on stderr: a sentence for bad input, the stack for a fault of ours.
 *
 * @param options.debug the stack in any case, with everything that caused it
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
