/** Whether autograd records, and scopes that switch it. */
import { TorchError } from "./error.js";
import { isThenable, tidy } from "./memory.js";
import { native } from "./native.js";

export function isGradEnabled(): boolean {
  return native.gradEnabled();
}

function withGrad<T>(on: boolean, name: string, fn: () => T): T {
  const before = native.gradEnabled();
  native.setGradEnabled(on);
  try {
    const result = fn();
    if (isThenable(result)) {
      void (result as PromiseLike<unknown>).then(undefined, () => undefined);
      throw new TorchError(`Expected a synchronous function for ${name} but received one that returns a promise`, name);
    }
    return result;
  } finally {
    native.setGradEnabled(before);
  }
}

/** Runs `fn` without recording for backward. @throws TorchError if `fn` returns a promise */
export function noGrad<T>(fn: () => T): T {
  return withGrad(false, "noGrad", fn);
}

/** Runs `fn` recording for backward, inside a noGrad too. @throws TorchError if `fn` returns a promise */
export function enableGrad<T>(fn: () => T): T {
  return withGrad(true, "enableGrad", fn);
}

/** Runs `fn` without recording for backward and disposes of its temporaries: `tidy` and `noGrad` in one. */
export function inference<T>(fn: () => T): T {
  return tidy(() => noGrad(fn));
}
