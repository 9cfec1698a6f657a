/** Functions that make tensors: from JavaScript's values, filled, or random. */
import { dtypeOfTypedArray, SCALAR_TYPE, type Device, type DType, type TypedArray } from "./dtypes.js";
import { inWords, TorchError } from "./error.js";
import { native } from "./native.js";
import type { Generator } from "./random.js";
import { aten, Tensor } from "./tensor.js";

/** dtype and device of a new tensor. */
export interface CreationOptions {
  /** float32 when left out. */
  dtype?: DType;
  device?: Device;
}

/** libtorch's own limit on dimensions is 64; it also keeps the recursion over nested arrays shallow. */
const MAX_NESTING = 64;

type Nested = number | boolean | readonly Nested[];

/** The shape of nested arrays by their first elements. */
function nestedShape(data: readonly Nested[]): number[] {
  const shape: number[] = [];
  let level: Nested | undefined = data;
  while (Array.isArray(level)) {
    shape.push((level as readonly Nested[]).length);
    if (shape.length > MAX_NESTING) {
      throw new TorchError(`Expected at most ${MAX_NESTING} nested arrays for tensor but received more`, "tensor");
    }
    level = (level as readonly Nested[])[0];
  }
  return shape;
}

function allocate(numel: number): Float64Array {
  try {
    return new Float64Array(numel);
  } catch {
    throw new TorchError(`Expected memory for the ${numel} elements of tensor but there is not enough`, "tensor");
  }
}

/** Writes nested arrays row-major into `out` from `offset` on; returns where it stopped. */
function flattenInto(data: Nested, shape: readonly number[], dim: number, out: Float64Array, offset: number): number {
  if (dim === shape.length) {
    if (typeof data !== "number" && typeof data !== "boolean") {
      throw new TorchError(`Expected numbers for the elements of tensor but received ${inWords(data)}`, "tensor");
    }
    out[offset] = Number(data);
    return offset + 1;
  }
  if (!Array.isArray(data) || data.length !== shape[dim]) {
    throw new TorchError(
      `Expected nested arrays of one shape, [${shape.join(", ")}], for tensor but received ${inWords(data)} ` +
        `at depth ${dim}`,
      "tensor",
    );
  }
  let at = offset;
  for (let i = 0; i < data.length; i++) at = flattenInto((data as Nested[])[i]!, shape, dim + 1, out, at);
  return at;
}

/**
 * A tensor of the given values, copied.
 *
 * @param data a number, numbers nested to any depth, or a typed array (whose dtype it then has)
 * @param options `shape` for flat data; default: the shape of the nesting
 * @throws TorchError for ragged nesting, elements that are not numbers, or a shape of another size
 */
export function tensor(
  data: number | boolean | readonly Nested[] | TypedArray,
  { shape, dtype, device }: CreationOptions & { shape?: readonly number[] } = {},
): Tensor {
  let values: TypedArray;
  let dims: readonly number[];
  let ownDtype: DType = dtype ?? "float32";
  if (ArrayBuffer.isView(data)) {
    if (data instanceof DataView) throw new TorchError("Expected a typed array for tensor but received a DataView");
    values = data;
    dims = shape ?? [values.length];
    ownDtype = dtype ?? dtypeOfTypedArray(values);
  } else if (Array.isArray(data)) {
    const nested = nestedShape(data as readonly Nested[]);
    const numel = nested.reduce((product, size) => product * size, 1);
    if (!(numel <= 2 ** 32)) {
      throw new TorchError(`Expected nested arrays of one shape for tensor but received [${nested.join(", ")}]`);
    }
    values = allocate(numel);
    flattenInto(data as readonly Nested[], nested, 0, values, 0);
    dims = shape ?? nested;
  } else if (typeof data === "number" || typeof data === "boolean") {
    values = Float64Array.of(Number(data));
    dims = shape ?? [];
    ownDtype = dtype ?? (typeof data === "boolean" ? "bool" : "float32");
  } else {
    throw new TorchError(`Expected numbers or a typed array for tensor but received ${inWords(data)}`, "tensor");
  }

  const source = new Tensor(native.fromBuffer(values, SCALAR_TYPE[dtypeOfTypedArray(values)], dims));
  if (source.dtype === ownDtype && device === undefined) return source;
  try {
    return source.to({ dtype: ownDtype, device });
  } finally {
    source.dispose();
  }
}

/** A tensor over bytes that are elements of `dtype` (as in a safetensors file), copied. */
export function tensorFromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  const code = SCALAR_TYPE[dtype];
  if (code === undefined) throw new TorchError(`Expected a dtype but received ${inWords(dtype)}`, "tensorFromBytes");
  return new Tensor(native.fromBuffer(bytes, code, shape));
}

/** Uninitialised memory. */
export function empty(shape: readonly number[], { dtype = "float32", device }: CreationOptions = {}): Tensor {
  return aten.empty(shape, dtype, null, device);
}

/** Filled with one value; float32 on the CPU by default. */
export function full(
  shape: readonly number[],
  value: number,
  { dtype = "float32", device }: CreationOptions = {},
): Tensor {
  return aten.full(shape, value, dtype, null, device);
}

/** Filled with zeros; float32 on the CPU by default. */
export function zeros(shape: readonly number[], options?: CreationOptions): Tensor {
  return full(shape, 0, options);
}

/** Filled with ones; float32 on the CPU by default. */
export function ones(shape: readonly number[], options?: CreationOptions): Tensor {
  return full(shape, 1, options);
}

/** Zeros with the shape, dtype, device and memory format of `like`. */
export function zerosLike(like: Tensor): Tensor {
  return aten.zerosLike(like);
}

/** Ones with the shape, dtype, device and memory format of `like`. */
export function onesLike(like: Tensor): Tensor {
  return aten.onesLike(like);
}

/** Uninitialised memory with the shape, dtype, device and memory format of `like`. */
export function emptyLike(like: Tensor): Tensor {
  return aten.emptyLike(like);
}

/** start, start + step, ... before end; float32 unless asked otherwise. */
export function arange(
  start: number,
  end: number,
  step = 1,
  { dtype = "float32", device }: CreationOptions = {},
): Tensor {
  return aten.arange(start, end, step, dtype, null, device);
}

/** `steps` numbers from start to end, both included. */
export function linspace(
  start: number,
  end: number,
  steps: number,
  { dtype = "float32", device }: CreationOptions = {},
): Tensor {
  return aten.linspace(start, end, steps, dtype, null, device);
}

/** Options of random tensors. */
export interface RandomOptions extends CreationOptions {
  /** The device's default generator when left out. */
  generator?: Generator;
}

/** Standard normal. */
export function randn(shape: readonly number[], { generator, dtype = "float32", device }: RandomOptions = {}): Tensor {
  return aten.randn(shape, generator, dtype, null, device);
}

/** Uniform in [0, 1). */
export function rand(shape: readonly number[], { generator, dtype = "float32", device }: RandomOptions = {}): Tensor {
  return aten.rand(shape, generator, dtype, null, device);
}

/** Integers in [low, high). */
export function randint(
  low: number,
  high: number,
  shape: readonly number[],
  { generator, dtype = "int64", device }: RandomOptions = {},
): Tensor {
  return aten.randint(low, high, shape, generator, dtype, null, device);
}

/** The integers 0 .. n - 1 in random order. */
export function randperm(n: number, { generator, dtype = "int64", device }: RandomOptions = {}): Tensor {
  return aten.randperm(n, generator, dtype, null, device);
}
