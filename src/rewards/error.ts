import { InputError } from "../base/errors.js";

/** A reward that cannot be loaded, or does not give what it should. */
export class RewardError extends InputError {
  override readonly name = "RewardError";
}
