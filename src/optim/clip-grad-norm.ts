/** Gradient clipping by the norm over all parameters, with PyTorch's numbers. */
import { foreachMul_, foreachNorm, inference, stack, type Tensor } from "../torch/index.js";

/**
 * Scales all gradients so that their common Euclidean norm is at most `maxNorm`. Gradients whose norm is not finite are
 * not changed; the caller drops them.
 *
 * @returns the norm before scaling
 */
export function clipGradNorm(parameters: Iterable<Tensor>, maxNorm: number): number {
  return inference(() => {
    const grads = [...parameters].map(({ grad }) => grad).filter((grad) => grad !== null);
    if (grads.length === 0) return 0;
    const norm = stack(foreachNorm(grads)).norm().item();
    const scale = maxNorm / (norm + 1e-6);
    if (scale < 1) foreachMul_(grads, scale);
    return norm;
  });
}
