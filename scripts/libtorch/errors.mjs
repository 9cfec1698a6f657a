/** Errors of the install step of which only the message is shown. */
export class InstallError extends Error {}

/** A failed compilation: a sentence of advice, and the compiler's output. */
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
