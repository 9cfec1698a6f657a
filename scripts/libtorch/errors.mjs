/** Errors of the install step whose message is all that the user needs to see. */
export class InstallError extends Error {}

/** A failed compilation: a sentence of advice, and everything the compiler said. */
export class BuildError extends InstallError {
  /**
   * @param {string} message
   * @param {string} output
   */
  constructor(message, output) {
    super(message);
    this.output = output;
  }
}
