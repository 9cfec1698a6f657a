/**
 * Names of element types, memory formats and devices, and what each is to libtorch (c10's ScalarType and MemoryFormat
 * numbers, which have not changed since 1.0) and to JavaScript (the typed array that holds it).
 */
export type DType =
  "float32" | "float64" | "float16" | "bfloat16" | "int64" | "int32" | "int16" | "int8" | "uint8" | "bool";

/** Where a tensor lives. */
export type Device = "cpu" | "mps" | "cuda" | `cuda:${number}`;

export type MemoryFormat = "contiguous" | "channelsLast" | "preserve";

export type TypedArray =
  Float32Array | Float64Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array | Uint8ClampedArray;

/** c10::ScalarType. */
export const SCALAR_TYPE: Readonly<Record<DType, number>> = {
  uint8: 0,
  int8: 1,
  int16: 2,
  int32: 3,
  int64: 4,
  float16: 5,
  float32: 6,
  float64: 7,
  bool: 11,
  bfloat16: 15,
};

/** c10::MemoryFormat. */
export const MEMORY_FORMAT: Readonly<Record<MemoryFormat, number>> = { contiguous: 0, preserve: 1, channelsLast: 2 };

const NAME_OF_SCALAR_TYPE = new Map(Object.entries(SCALAR_TYPE).map(([name, code]) => [code, name as DType]));

/** The name of a c10::ScalarType, or its number in words for one that has no name here (complex, quantised). */
export function dtypeName(scalarType: number): DType {
  return NAME_OF_SCALAR_TYPE.get(scalarType) ?? (`ScalarType ${scalarType}` as DType);
}

/** Bytes of one element. */
export const ITEM_SIZE: Readonly<Record<DType, number>> = {
  uint8: 1,
  int8: 1,
  bool: 1,
  int16: 2,
  float16: 2,
  bfloat16: 2,
  int32: 4,
  float32: 4,
  int64: 8,
  float64: 8,
};

/** The element type that a typed array's memory has. */
export function dtypeOfTypedArray(data: TypedArray): DType {
  if (data instanceof Float32Array) return "float32";
  if (data instanceof Float64Array) return "float64";
  if (data instanceof BigInt64Array) return "int64";
  if (data instanceof Int32Array) return "int32";
  if (data instanceof Int16Array) return "int16";
  if (data instanceof Int8Array) return "int8";
  return "uint8";
}

/** A typed array over a buffer that native code filled with elements of `dtype`. */
export function typedArrayOver(buffer: ArrayBuffer, dtype: DType): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer);
    case "float64":
      return new Float64Array(buffer);
    case "int64":
      return new BigInt64Array(buffer);
    case "int32":
      return new Int32Array(buffer);
    case "int16":
      return new Int16Array(buffer);
    case "int8":
      return new Int8Array(buffer);
    case "uint8":
    case "bool":
      return new Uint8Array(buffer);
    case "float16":
    case "bfloat16":
      throw new TypeError(`Expected an element type that JavaScript has an array for but received ${dtype}`);
    default:
      throw new TypeError(`Expected a real element type but received ${String(dtype satisfies never)}`);
  }
}
