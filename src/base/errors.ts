/** The errors that are not faults of this code: what a user gave, and what a user stopped. */

/**
 * Something the user gave cannot work: a file, a config value, a model, an answer of a reward.
 *
 * Every such error of the project extends this one. The command line prints its message alone and exits with code 2.
 * Messages read "Expected X for Y but received Z" and name the file.
 */
export class InputError extends Error {
  override readonly name: string = "InputError";
}

/** The work was asked to stop and did so between two steps. The command line exits with code 130. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";

  constructor() {
    super("Interrupted");
  }
}
