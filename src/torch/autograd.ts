/** Reverse-mode differentiation: whether it records, and gradients as values. */
import { TorchError } from "./error.js";
import { isThenable } from "./memory.js";
import { native } from "./native.js";
import { expectSlot, wrap } from "./op.js";
import type { Tensor } from "./tensor.js";

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

export interface GradOptions {
  /** Keep what backward needs, for another pass over the same graph. */
  retainGraph?: boolean;
  /** Record the gradients' own computation, for second derivatives. */
  createGraph?: boolean;
  /** null for an input that the outputs do not depend on, instead of an error. */
  allowUnused?: boolean;
}

/**
 * The gradients of the outputs with respect to the inputs, weighted by `gradOutputs` (1 for single elements).
 *
 * @throws TorchError if an input was not used and allowUnused is not set
 */
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  gradOutputs?: Tensor | readonly (Tensor | null)[],
  options?: GradOptions & { allowUnused?: false },
): Tensor[];
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  gradOutputs: Tensor | readonly (Tensor | null)[] | undefined,
  options: GradOptions,
): (Tensor | null)[];
export function grad(
  outputs: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  gradOutputs?: Tensor | readonly (Tensor | null)[],
  { createGraph = false, retainGraph = createGraph, allowUnused = false }: GradOptions = {},
): (Tensor | null)[] {
  const slots = (tensors: unknown): number[] =>
    (Array.isArray(tensors) ? tensors : [tensors]).map((tensor) => expectSlot(tensor, "grad"));
  const outputSlots = slots(outputs);
  const weights =
    gradOutputs === undefined
      ? outputSlots.map(() => null)
      : (Array.isArray(gradOutputs) ? (gradOutputs as readonly (Tensor | null)[]) : [gradOutputs as Tensor]).map(
          (tensor) => (tensor === null ? null : expectSlot(tensor, "grad")),
        );
  return native
    .gradients(outputSlots, slots(inputs), weights, retainGraph, createGraph, allowUnused)
    .map((slot) => (slot === null ? null : wrap(slot)));
}
