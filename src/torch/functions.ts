/** Functions of tensors that are not methods: joins, choices and products. */
import { aten, type Tensor } from "./tensor.js";

/** Concatenates along an existing dimension. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  return aten.cat(tensors, dim);
}

/** Joins along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return aten.stack(tensors, dim);
}

/** a where the condition holds, b elsewhere. */
export function where(condition: Tensor, a: Tensor | number, b: Tensor | number): Tensor {
  if (typeof a === "number") {
    return typeof b === "number" ? aten.whereScalar(condition, a, b) : aten.whereScalarSelf(condition, a, b);
  }
  return typeof b === "number" ? aten.whereScalarOther(condition, a, b) : aten.whereSelf(condition, a, b);
}

/** Matrix product, with broadcast batch dimensions: [..., N, K] x [..., K, M] -> [..., N, M]. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  return aten.matmul(a, b);
}

/** [B, N, K] x [B, K, M] -> [B, N, M]. */
export function bmm(a: Tensor, b: Tensor): Tensor {
  return aten.bmm(a, b);
}

/** beta * input + alpha * (a x b). */
export function baddbmm(
  input: Tensor,
  a: Tensor,
  b: Tensor,
  { beta = 1, alpha = 1 }: { beta?: number; alpha?: number } = {},
): Tensor {
  return aten.baddbmm(input, a, b, beta, alpha);
}

/** In place: input = beta * input + alpha * (a x b). Returns `input`. */
export function addmm_(
  input: Tensor,
  a: Tensor,
  b: Tensor,
  { beta = 1, alpha = 1 }: { beta?: number; alpha?: number } = {},
): Tensor {
  return aten.addmm_(input, a, b, beta, alpha);
}
