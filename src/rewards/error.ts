import { InputError } from "../base/errors.js";

/** A reward cannot be loaded, or returns something other than one finite number per image. */
export class RewardError extends InputError {
  override readonly name = "RewardError";
}

/** The same where the sentence names the reward and the image already. */
export class AnswerError extends RewardError {}

/** What a check that throws says is wrong; undefined if nothing is. */
export function problemOf(check: () => unknown): string | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (error instanceof RewardError) return error.message;
    throw error;
  }
}
