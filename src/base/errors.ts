/** Errors that are not bugs: bad input, and interruption by the user. */
import { visible } from "./show.js";

/**
 * Bad input: a file, a config value, a model or the result of a reward.
 *
 * All such errors of the project extend this class. The command line prints only the message and exits with code 2.
 * Messages read "Expected X for Y but received Z" and name the file. What they quote may come from anywhere, so control
 * characters in them are escaped.
 */
export class InputError extends Error {
  override readonly name: string = "InputError";

  constructor(message = "", options?: ErrorOptions) {
    super(visible(message), options);
  }
}

/** Thrown when the work stops between two steps because its signal aborted. The command line exits with code 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";

  constructor() {
    super("Interrupted");
  }
}
