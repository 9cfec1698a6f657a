/** Errors of the setup of which only the message is shown: what is missing on this machine, and how to get it. */
export class InstallError extends Error {
  /** @override */
  name = "InstallError";
}

/** The setup was interrupted. */
export class Aborted extends Error {
  /** @override */
  name = "Aborted";
}
