/** Which errors are the user's to mend, and how each kind is told. */
import { InputError } from "../base/errors.js";

/** Errors of other folders whose message is about a file, a model or a config that was given. */
const inputErrors = new Set([
  "SafetensorsError",
  "RunError",
  "ConfigError",
  "ModelConfigError",
  "SchedulerConfigError",
  "TokenizerError",
  "ImageError",
  "RewardError",
  "PipelineError",
  "HubError",
]);

const LESS_MEMORY =
  "Less is needed with smaller sample.batchSize, train.microBatch and reward.batchSize, with " +
  "train.gradientCheckpointing=true and model.vaeTiling=true, and with model.dtype=bfloat16";

/** An error of ours that stopped a command, from code that reads what the user gave. */
export const isInputError = (error: unknown): boolean =>
  error instanceof InputError || (error instanceof Error && inputErrors.has(error.name));

/** libtorch's words for it on any device, and those of our own allocator. */
const isOutOfMemory = (error: unknown): error is Error =>
  error instanceof Error && error.name === "TorchError" && error.message.includes("out of memory");

/** 2 for bad input, 130 for an interruption, 1 for everything else. */
export function exitCodeOf(error: unknown): number {
  if (isInputError(error)) return 2;
  return error instanceof Error && error.name === "Interrupted" ? 130 : 1;
}

/** Tells an error on stderr: a sentence for bad input, the stack for a fault of ours. */
export function report(error: unknown): void {
  if (isInputError(error)) process.stderr.write(`b2: ${(error as Error).message}\n`);
  else if (isOutOfMemory(error)) {
    const [problem] = error.message.split("\n", 1);
    process.stderr.write(`b2: ${problem}\n${LESS_MEMORY}\n`);
  } else if (exitCodeOf(error) !== 130) {
    process.stderr.write(`b2: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  }
}

/** Runs `load`, whose errors are about what the user named: whatever it throws counts as bad input. */
export async function asInput<T>(load: () => T | Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    if (isInputError(error) || exitCodeOf(error) === 130) throw error;
    throw new InputError(error instanceof Error ? error.message : String(error), { cause: error });
  }
}
