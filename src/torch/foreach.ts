/** Whole lists of tensors in one call: what an optimiser does to all its parameters. */
import { aten, type Tensor } from "./tensor.js";

/** tensors += alpha * other, in place. */
export function foreachAdd_(
  tensors: readonly Tensor[],
  other: readonly Tensor[] | number,
  { alpha = 1 }: { alpha?: number } = {},
): void {
  if (typeof other === "number") aten.foreachAddScalar_(tensors, other * alpha);
  else aten.foreachAddList_(tensors, other, alpha);
}

/** tensors *= other, in place. */
export function foreachMul_(tensors: readonly Tensor[], other: readonly Tensor[] | number): void {
  if (typeof other === "number") aten.foreachMulScalar_(tensors, other);
  else aten.foreachMulList_(tensors, other);
}

/** tensors /= other, in place. */
export function foreachDiv_(tensors: readonly Tensor[], other: readonly Tensor[] | number): void {
  if (typeof other === "number") aten.foreachDivScalar_(tensors, other);
  else aten.foreachDivList_(tensors, other);
}

/** tensors += value * a * b. */
export function foreachAddcmul_(
  tensors: readonly Tensor[],
  a: readonly Tensor[],
  b: readonly Tensor[],
  { value = 1 }: { value?: number } = {},
): void {
  aten.foreachAddcmul_(tensors, a, b, value);
}

/** tensors += value * a / b. */
export function foreachAddcdiv_(
  tensors: readonly Tensor[],
  a: readonly Tensor[],
  b: readonly Tensor[],
  { value = 1 }: { value?: number } = {},
): void {
  aten.foreachAddcdiv_(tensors, a, b, value);
}

/** The square root of each. */
export function foreachSqrt(tensors: readonly Tensor[]): Tensor[] {
  return aten.foreachSqrt(tensors);
}

/** The p-norm of each. */
export function foreachNorm(tensors: readonly Tensor[], p = 2): Tensor[] {
  return aten.foreachNorm(tensors, p);
}
