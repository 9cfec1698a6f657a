import { InputError } from "../base/errors.js";

/** A model cannot be loaded from the hub or its cache. */
export class HubError extends InputError {
  override readonly name = "HubError";
}

/** The hub is overloaded or temporarily out of order. */
export class HubBusyError extends HubError {
  constructor(
    message: string,
    /** How long the hub asks to wait, if it does. */
    readonly seconds: number | undefined,
  ) {
    super(message);
  }
}

/** The repository exists, but not this branch, tag or commit: the cache cannot help. */
export class NoRevisionError extends HubError {}
