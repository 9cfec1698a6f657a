/** Errors of several processes that compute together. */
import { InputError } from "../base/errors.js";

/** A worker has died, does not answer, or did not come; the message names it. Nothing finished is lost. */
export class WorkerError extends InputError {
  override readonly name = "WorkerError";
}
