/**
 * Tensors in and out of safetensors files.
 *
 * A tensor is a copy of its part of the file, so that it stays what it is whatever happens to the file. It is read in
 * parts, and tensors one after the other, so that loading needs little more memory than the weights.
 */
import {
  empty,
  tensorFromBytes,
  tidy,
  type Device,
  type DType,
  type MemoryFormat,
  type Tensor,
} from "../torch/index.js";
import { SafetensorsError } from "./error.js";
import { readHeader, readRange, type SafetensorsDType, type SafetensorsHeader, type TensorEntry } from "./header.js";
import { writeRaw, type RawTensor } from "./write.js";

const torchDTypes: Partial<Record<SafetensorsDType, DType>> = {
  F64: "float64",
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
  I64: "int64",
  I32: "int32",
  I16: "int16",
  I8: "int8",
  U8: "uint8",
  BOOL: "bool",
};

const fileDTypes = Object.fromEntries(Object.entries(torchDTypes).map(([file, torch]) => [torch, file])) as Record<
  DType,
  SafetensorsDType
>;

export interface ReadOptions {
  /** Convert to this dtype. Default: as stored. */
  readonly dtype?: DType;
  readonly device?: Device;
  readonly memoryFormat?: MemoryFormat;
}

/** A safetensors file, whose tensors are read one at a time. */
export class SafetensorsFile {
  readonly file: string;
  readonly header: SafetensorsHeader;

  /** @throws SafetensorsError, see readHeader */
  constructor(file: string) {
    this.file = file;
    this.header = readHeader(file);
  }

  keys(): string[] {
    return [...this.header.tensors.keys()];
  }

  /**
   * Reads one tensor.
   *
   * @throws SafetensorsError naming the file and the key when there is no such tensor, or libtorch has no such dtype
   */
  tensor(key: string, { dtype, device = "cpu", memoryFormat = "preserve" }: ReadOptions = {}): Tensor {
    const entry = this.header.tensors.get(key);
    if (entry === undefined) {
      throw new SafetensorsError(this.file, "Expected a tensor of this name but received a file without it", key);
    }
    const stored = this.dtype(key);
    return tidy(() => {
      const format = memoryFormat === "preserve" || entry.shape.length !== 4 ? {} : { memoryFormat };
      return read(this.header, entry, stored).to({ dtype: dtype ?? stored, device, ...format });
    });
  }

  /** The dtype a tensor is stored in. */
  dtype(key: string): DType {
    const dtype = this.header.tensors.get(key)?.dtype;
    const torchDType = dtype === undefined ? undefined : torchDTypes[dtype];
    if (torchDType === undefined) {
      const known = Object.keys(torchDTypes).join(", ");
      throw new SafetensorsError(this.file, `Expected one of ${known} for dtype but received ${dtype ?? "none"}`, key);
    }
    return torchDType;
  }
}

/** The elements of an entry as a tensor on the CPU. */
function read(header: SafetensorsHeader, entry: TensorEntry, dtype: DType): Tensor {
  const bytes = empty([entry.end - entry.begin], { dtype: "uint8" });
  readRange(header, entry, (part, at) =>
    tidy(() => bytes.narrow(0, at, part.length).copy_(tensorFromBytes(part, [part.length], "uint8"))),
  );
  return bytes.viewAs(dtype).reshape(entry.shape);
}

/**
 * Reads every tensor of a file, in the file's order.
 *
 * @throws SafetensorsError naming the file, and the key if one is at fault
 */
export function loadSafetensors(file: string, options: ReadOptions = {}): Map<string, Tensor> {
  const source = new SafetensorsFile(file);
  return new Map(source.keys().map((key) => [key, source.tensor(key, options)]));
}

/** A tensor that is created when it is written; its elements in order fill the given shape. */
export interface PendingTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly tensor: () => Tensor;
}

type Writable = Tensor | PendingTensor;

/** Writes tensors of any device and memory format, atomically. Equal contents give equal files. */
export function saveSafetensors(
  file: string,
  tensors: ReadonlyMap<string, Writable> | Readonly<Record<string, Writable>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const entries = isMap(tensors) ? [...tensors] : Object.entries(tensors);
  const raw = entries.map(([key, value]): [string, RawTensor] => {
    const bytes = (): Uint8Array => ("tensor" in value ? bytesOf(value) : value.toBytes());
    return [key, { dtype: fileDTypes[value.dtype], shape: value.shape, bytes }];
  });
  writeRaw(file, new Map(raw), metadata);
}

function bytesOf({ dtype, tensor }: PendingTensor): Uint8Array {
  return tidy(() => tensor().to({ dtype }).toBytes());
}

function isMap(value: object): value is ReadonlyMap<string, Writable> {
  return value instanceof Map;
}
