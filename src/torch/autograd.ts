/** Reverse-mode differentiation: gradients as values. `Tensor.backward` accumulates them into leaves instead. */
import { expectSlot } from "./memory.js";
import { native } from "./native.js";
import { Tensor } from "./tensor.js";

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
    .map((slot) => (slot === null ? null : new Tensor(slot)));
}
