import { InputError } from "../base/errors.js";

/** A model that cannot be had from the hub, or from its cache. */
export class HubError extends InputError {
  override readonly name = "HubError";
}

/** The hub is overloaded or out of order, which passes. */
export class HubBusyError extends HubError {
  constructor(
    message: string,
    /** The seconds it asks to be left alone. */
    readonly seconds: number | undefined,
  ) {
    super(message);
  }
}

/** The repository is there, the branch, tag or commit is not: nothing in the cache can stand for it. */
export class NoRevisionError extends HubError {}
