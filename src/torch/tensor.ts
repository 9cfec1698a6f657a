/**
 * Tensor: a libtorch tensor with PyTorch's methods, in camel case. Every dimension may be negative, counted from the
 * end; operators broadcast as PyTorch's do. Anything wrong is a TorchError that names the operator.
 *
 * A Tensor owns one slot of native memory: dispose of it by hand, or make it inside `tidy`.
 */
import { dtypeName, typedArrayOver, type Device, type DType, type MemoryFormat, type TypedArray } from "./dtypes.js";
import { inWords, TorchError } from "./error.js";
import { inference } from "./grad-mode.js";
import { expectSlot, TensorHandle } from "./memory.js";
import { native, type Slot } from "./native.js";
import { operatorsOn } from "./op.js";
import { operatorsOf } from "./operators.js";
import { printValues } from "./print.js";
import { backwardThroughSegments } from "./tape.js";

export interface ReduceOptions {
  /** One dimension or several; all of them when left out. */
  dim?: number | readonly number[];
  /** Whether reduced dimensions stay, with size 1. */
  keepdim?: boolean;
}

export interface ConversionOptions {
  dtype?: DType | undefined;
  device?: Device | undefined;
  memoryFormat?: MemoryFormat | undefined;
}

/** Nested lists of numbers, as deep as a tensor has dimensions. */
export type NestedArray = number | NestedArray[];

const asList = (dim: number | readonly number[] | undefined): readonly number[] | null =>
  dim === undefined ? null : typeof dim === "number" ? [dim] : dim;

/** The elements' bytes, row-major. JavaScript allocates: V8 ends the process when native code's allocation fails. */
function copyOut(slot: Slot): ArrayBuffer {
  const bytes = native.byteLength(slot);
  let buffer: ArrayBuffer;
  try {
    buffer = new ArrayBuffer(bytes);
  } catch {
    throw new TorchError(`Expected at most what an ArrayBuffer can hold but the tensor has ${bytes} bytes`);
  }
  native.copyInto(slot, buffer);
  return buffer;
}

/** util.inspect.custom, whose type would ask users of this class for the types of Node. */
const inspectCustom: unique symbol = Symbol.for("nodejs.util.inspect.custom");

/** Lines of values that console.log shows of a tensor, and of one inside an object. */
const [PAGE, PAGE_INSIDE] = [48, 16];

/** The values as text; undefined where they cannot be read, as those of complex numbers. */
function valuesOf(tensor: Tensor, mostLines: number): string | undefined {
  try {
    return inference(() => printValues(tensor, mostLines));
  } catch {
    return undefined;
  }
}

/** A libtorch tensor; methods have the names and the meaning of PyTorch's. Freed by tidy, dispose or garbage collection. */
export class Tensor extends TensorHandle {
  #shape: readonly number[] | undefined;
  #dtype: DType | undefined;

  // --- what it is ---

  get shape(): readonly number[] {
    return (this.#shape ??= Object.freeze(native.shape(expectSlot(this, "shape"))));
  }
  /** Elements between neighbours of each dimension. */
  get strides(): readonly number[] {
    return native.strides(expectSlot(this, "strides"));
  }
  get dtype(): DType {
    return (this.#dtype ??= dtypeName(native.scalarType(expectSlot(this, "dtype"))));
  }
  get device(): Device {
    return native.device(expectSlot(this, "device")) as Device;
  }
  get numel(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }
  get ndim(): number {
    return this.shape.length;
  }
  size(dim: number): number {
    const size = this.shape.at(dim);
    if (Number.isInteger(dim) && dim >= -this.ndim && size !== undefined) return size;
    throw new TorchError(
      `Expected a dimension of a tensor of shape [${this.shape.join(", ")}] for size but received ${inWords(dim)}`,
      "size",
    );
  }
  override toString(): string {
    if (this.disposed) return "Tensor(disposed)";
    return `Tensor(${this.dtype}[${this.shape.join(", ")}]${this.device === "cpu" ? "" : `, ${this.device}`})`;
  }

  /** For console.log: what toString says, the device, and the values; over at most a page. Never throws. */
  [inspectCustom](depth: number | null, options: { readonly depth?: number | null }): string {
    try {
      if (this.disposed || (depth !== null && depth < 0)) return this.toString();
      const title = `Tensor(${this.dtype}[${this.shape.join(", ")}], ${this.device}${this.requiresGrad ? ", requiresGrad" : ""})`;
      const inside = depth !== (options.depth ?? null);
      const values = valuesOf(this, inside ? PAGE_INSIDE : PAGE);
      if (values === undefined) return title;
      return `${title}${values.includes("\n") ? "\n" : " "}${values}`;
    } catch {
      return "Tensor";
    }
  }

  // --- arithmetic ---

  add(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.addScalar(this, other) : aten.addTensor(this, other);
  }
  sub(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.subScalar(this, other) : aten.subTensor(this, other);
  }
  mul(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.mulScalar(this, other) : aten.mulTensor(this, other);
  }
  div(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.divScalar(this, other) : aten.divTensor(this, other);
  }
  pow(exponent: Tensor | number): Tensor {
    return typeof exponent === "number" ? aten.powScalar(this, exponent) : aten.powTensor(this, exponent);
  }
  neg(): Tensor {
    return aten.neg(this);
  }
  square(): Tensor {
    return aten.square(this);
  }
  sqrt(): Tensor {
    return aten.sqrt(this);
  }
  /** 1 / sqrt(x). */
  rsqrt(): Tensor {
    return aten.rsqrt(this);
  }
  exp(): Tensor {
    return aten.exp(this);
  }
  log(): Tensor {
    return aten.log(this);
  }
  abs(): Tensor {
    return aten.abs(this);
  }
  sin(): Tensor {
    return aten.sin(this);
  }
  cos(): Tensor {
    return aten.cos(this);
  }
  tanh(): Tensor {
    return aten.tanh(this);
  }
  sigmoid(): Tensor {
    return aten.sigmoid(this);
  }
  /** To the nearest integer, halves to the even one. */
  round(): Tensor {
    return aten.round(this);
  }
  floor(): Tensor {
    return aten.floor(this);
  }
  clamp({ min, max }: { min?: number; max?: number }): Tensor {
    return aten.clamp(this, min, max);
  }
  maximum(other: Tensor): Tensor {
    return aten.maximum(this, other);
  }
  minimum(other: Tensor): Tensor {
    return aten.minimum(this, other);
  }
  matmul(other: Tensor): Tensor {
    return aten.matmul(this, other);
  }

  // --- comparison: bool tensors ---

  eq(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.eqScalar(this, other) : aten.eqTensor(this, other);
  }
  ne(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.neScalar(this, other) : aten.neTensor(this, other);
  }
  lt(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.ltScalar(this, other) : aten.ltTensor(this, other);
  }
  le(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.leScalar(this, other) : aten.leTensor(this, other);
  }
  gt(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.gtScalar(this, other) : aten.gtTensor(this, other);
  }
  ge(other: Tensor | number): Tensor {
    return typeof other === "number" ? aten.geScalar(this, other) : aten.geTensor(this, other);
  }
  logicalNot(): Tensor {
    return aten.logicalNot(this);
  }
  isnan(): Tensor {
    return aten.isnan(this);
  }
  /** Whether shape and every element are the same. */
  equal(other: Tensor): boolean {
    return aten.equal(this, other);
  }

  // --- in place: each returns this ---

  /** this += alpha * other. */
  add_(other: Tensor | number, { alpha = 1 }: { alpha?: number } = {}): this {
    if (typeof other === "number") aten.addScalar_(this, other * alpha);
    else aten.addTensor_(this, other, alpha);
    return this;
  }
  sub_(other: Tensor | number): this {
    if (typeof other === "number") aten.subScalar_(this, other);
    else aten.subTensor_(this, other);
    return this;
  }
  mul_(other: Tensor | number): this {
    if (typeof other === "number") aten.mulScalar_(this, other);
    else aten.mulTensor_(this, other);
    return this;
  }
  div_(other: Tensor | number): this {
    if (typeof other === "number") aten.divScalar_(this, other);
    else aten.divTensor_(this, other);
    return this;
  }
  clamp_({ min, max }: { min?: number; max?: number }): this {
    aten.clamp_(this, min, max);
    return this;
  }
  /** Copies the elements of `source`, broadcast and converted, into this tensor's memory. */
  copy_(source: Tensor): this {
    aten.copy_(this, source);
    return this;
  }
  fill_(value: number): this {
    aten.fillScalar_(this, value);
    return this;
  }
  zero_(): this {
    aten.zero_(this);
    return this;
  }
  /** this += value * a * b. */
  addcmul_(a: Tensor, b: Tensor, { value = 1 }: { value?: number } = {}): this {
    aten.addcmul_(this, a, b, value);
    return this;
  }
  /** this += value * a / b. */
  addcdiv_(a: Tensor, b: Tensor, { value = 1 }: { value?: number } = {}): this {
    aten.addcdiv_(this, a, b, value);
    return this;
  }
  /** this += weight * (end - this). */
  lerp_(end: Tensor, weight: number): this {
    aten.lerpScalar_(this, end, weight);
    return this;
  }

  /**
   * Moves this tensor's elements to a device and frees them where they were. Whoever holds this tensor holds the moved
   * one; views made before stay behind, and a gradient is dropped. On the device already: does nothing.
   */
  moveTo_(device: Device): this {
    if (this.device === device) return this;
    const { requiresGrad } = this;
    inference(() => TensorHandle.replace(this, this.detach().to({ device })));
    return requiresGrad ? this.requiresGrad_() : this;
  }

  // --- reductions ---

  sum({ dim, keepdim = false }: ReduceOptions = {}): Tensor {
    return aten.sum(this, asList(dim), keepdim);
  }
  mean({ dim, keepdim = false }: ReduceOptions = {}): Tensor {
    return aten.mean(this, asList(dim), keepdim);
  }
  amax({ dim, keepdim = false }: ReduceOptions = {}): Tensor {
    return aten.amax(this, asList(dim) ?? [], keepdim);
  }
  amin({ dim, keepdim = false }: ReduceOptions = {}): Tensor {
    return aten.amin(this, asList(dim) ?? [], keepdim);
  }
  /** Standard deviation, divided by n - 1 unless `unbiased` is false. */
  std({ dim, keepdim = false, unbiased = true }: ReduceOptions & { unbiased?: boolean } = {}): Tensor {
    return aten.std(this, asList(dim), unbiased, keepdim);
  }
  /** Variance, divided by n - 1 unless `unbiased` is false. */
  var({ dim, keepdim = false, unbiased = true }: ReduceOptions & { unbiased?: boolean } = {}): Tensor {
    return aten.variance(this, asList(dim), unbiased, keepdim);
  }
  /** Index of the largest element, of the flattened tensor when `dim` is left out. */
  argmax({ dim, keepdim = false }: { dim?: number; keepdim?: boolean } = {}): Tensor {
    return aten.argmax(this, dim, keepdim);
  }
  /** The p-norm of the elements. */
  norm({ p = 2, dim, keepdim = false }: ReduceOptions & { p?: number } = {}): Tensor {
    return aten.vectorNorm(this, p, asList(dim), keepdim);
  }
  all({ dim, keepdim = false }: { dim?: number; keepdim?: boolean } = {}): Tensor {
    return dim === undefined ? aten.all(this) : aten.allDim(this, dim, keepdim);
  }
  any({ dim, keepdim = false }: { dim?: number; keepdim?: boolean } = {}): Tensor {
    return dim === undefined ? aten.any(this) : aten.anyDim(this, dim, keepdim);
  }
  cumsum(dim: number): Tensor {
    return aten.cumsum(this, dim);
  }
  /** The indices that sort along a dimension. */
  argsort({ dim = -1, descending = false }: { dim?: number; descending?: boolean } = {}): Tensor {
    return aten.argsort(this, dim, descending);
  }

  // --- shape: views of the same memory where possible ---

  /** One size may be -1: what is left. */
  reshape(shape: readonly number[]): Tensor {
    return aten.reshape(this, shape);
  }
  /** reshape that never copies. @throws TorchError where only a copy would do */
  view(shape: readonly number[]): Tensor {
    return aten.view(this, shape);
  }
  /** The same bytes read as another dtype. */
  viewAs(dtype: DType): Tensor {
    return aten.viewDtype(this, dtype);
  }
  flatten(start = 0, end = -1): Tensor {
    return aten.flatten(this, start, end);
  }
  permute(dims: readonly number[]): Tensor {
    return aten.permute(this, dims);
  }
  transpose(a: number, b: number): Tensor {
    return aten.transpose(this, a, b);
  }
  unsqueeze(dim: number): Tensor {
    return aten.unsqueeze(this, dim);
  }
  /** Without `dim`, drops every dimension of size 1. */
  squeeze(dim?: number): Tensor {
    return dim === undefined ? aten.squeeze(this) : aten.squeezeDim(this, dim);
  }
  expand(shape: readonly number[]): Tensor {
    return aten.expand(this, shape);
  }
  contiguous({ memoryFormat = "contiguous" }: { memoryFormat?: MemoryFormat } = {}): Tensor {
    return aten.contiguous(this, memoryFormat);
  }
  slice(dim: number, start: number, end?: number, step = 1): Tensor {
    return aten.slice(this, dim, start, end, step);
  }
  select(dim: number, index: number): Tensor {
    return aten.select(this, dim, index);
  }
  narrow(dim: number, start: number, length: number): Tensor {
    return aten.narrow(this, dim, start, length);
  }
  chunk(chunks: number, dim = 0): Tensor[] {
    return aten.chunk(this, chunks, dim);
  }
  /** Pieces of `size`, the last one smaller where it does not divide. */
  split(size: number, dim = 0): Tensor[] {
    return aten.split(this, size, dim);
  }
  indexSelect(dim: number, index: Tensor): Tensor {
    return aten.indexSelect(this, dim, index);
  }
  gather(dim: number, index: Tensor): Tensor {
    return aten.gather(this, dim, index);
  }
  repeatInterleave(repeats: number, dim: number): Tensor {
    return aten.repeatInterleave(this, repeats, dim);
  }
  flip(dims: readonly number[]): Tensor {
    return aten.flip(this, dims);
  }

  // --- copies ---

  /** This tensor itself, as another view, where nothing is to be converted. */
  to({ dtype, device, memoryFormat }: ConversionOptions): Tensor {
    return aten.to(this, dtype, null, device, null, false, false, memoryFormat);
  }
  clone({ memoryFormat }: { memoryFormat?: MemoryFormat } = {}): Tensor {
    return aten.clone(this, memoryFormat);
  }
  /** The same memory, unknown to autograd. */
  detach(): Tensor {
    return aten.detach(this);
  }

  // --- autograd ---

  get requiresGrad(): boolean {
    return native.requiresGrad(expectSlot(this, "requiresGrad"));
  }
  /** Asks autograd to record what is done with this leaf. */
  requiresGrad_(on = true): this {
    native.setRequiresGrad(expectSlot(this, "requiresGrad_"), on);
    return this;
  }
  /** The accumulated gradient: a new Tensor over the same memory at each reading. */
  get grad(): Tensor | null {
    const slot = native.grad(expectSlot(this, "grad"));
    return slot === null ? null : new Tensor(slot);
  }
  set grad(grad: Tensor | null) {
    native.setGrad(expectSlot(this, "grad"), grad === null ? null : expectSlot(grad, "grad"));
  }
  /** Accumulates d this / d leaf into every leaf's grad. `gradient` may be left out for a single element. */
  backward(gradient?: Tensor, { retainGraph = false }: { retainGraph?: boolean } = {}): void {
    const seed = gradient === undefined ? null : expectSlot(gradient, "backward");
    const slot = expectSlot(this, "backward");
    backwardThroughSegments(() => native.backward([slot], [seed], retainGraph), retainGraph);
  }

  // --- to JavaScript ---

  /** The value of a tensor with one element; true is 1. */
  item(): number {
    return Number(native.item(expectSlot(this, "item")));
  }
  /** A copy of the elements, row-major. float16 and bfloat16 become a Float32Array, bool a Uint8Array of 0 and 1. */
  toTypedArray(): TypedArray {
    const { dtype } = this;
    if (dtype === "float16" || dtype === "bfloat16") {
      const wide = this.to({ dtype: "float32" });
      try {
        return wide.toTypedArray();
      } finally {
        wide.dispose();
      }
    }
    return typedArrayOver(copyOut(expectSlot(this, "toTypedArray")), dtype);
  }
  /** A copy of the elements' bytes, row-major, whatever the dtype. */
  toBytes(): Uint8Array {
    return new Uint8Array(copyOut(expectSlot(this, "toBytes")));
  }
  /** The elements as one flat list of numbers, row-major. */
  toArray(): number[] {
    return Array.from(this.toTypedArray(), Number);
  }
  /** The elements as lists nested as deep as the shape; a number for a scalar. */
  toNestedArray(): NestedArray {
    const flat = this.toArray();
    const nest = (dim: number, offset: number, stride: number): NestedArray => {
      const size = this.shape[dim];
      if (size === undefined) return flat[offset]!;
      const step = stride / size;
      return Array.from({ length: size }, (_, i) => nest(dim + 1, offset + i * step, step));
    };
    return nest(0, 0, flat.length);
  }
}

/** Declares an operator on Tensors: see Op. */
export const op = operatorsOn(Tensor);

/** The table of operators, on Tensors. */
export const aten = operatorsOf(op);
