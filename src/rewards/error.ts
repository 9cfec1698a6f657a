import { InputError } from "../base/errors.js";

/** A reward cannot be loaded, or returns something other than one finite number per image. */
export class RewardError extends InputError {
  override readonly name = "RewardError";
}
