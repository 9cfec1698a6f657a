/**
 * Tensors in and out of safetensors files.
 *
 * Reads are memory-mapped. A tensor that needs no conversion is a view of the file, whose pages the operating system
 * may drop. A tensor to convert is read through its own mapping, which is closed before the next one is read, so that
 * loading needs little more memory than the weights.
 */
import { statSync } from "node:fs";
import { fromFile, keep, tidy, type Device, type DType, type MemoryFormat, type Tensor } from "../torch/index.js";
import { SafetensorsError } from "./error.js";
import { readHeader, type SafetensorsDType, type SafetensorsHeader, type TensorEntry } from "./header.js";
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

/** An open safetensors file, whose tensors are read one at a time. */
export class SafetensorsFile {
  readonly file: string;
  readonly header: SafetensorsHeader;
  #mapping: Tensor | undefined;

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
    const wanted = dtype ?? stored;
    if (entry.begin === entry.end) return this.#empty(entry, wanted, device);
    // Channels-last reorders only images and kernels larger than 1x1.
    const reorders = memoryFormat === "channelsLast" && entry.shape.length === 4 && !is1x1(entry.shape);
    if (wanted === stored && device === "cpu" && !reorders && isAligned(entry)) {
      this.#mapping ??= keep(this.#map());
      const mapping = this.#mapping;
      return tidy(() => view(mapping, entry, stored));
    }
    return tidy(() => {
      const source = view(this.#map(), entry, stored);
      const format = memoryFormat === "preserve" || entry.shape.length !== 4 ? {} : { memoryFormat };
      const converted = source.to({ dtype: wanted, device, ...format });
      // `to` may return its input, which would keep this mapping alive.
      return wanted === stored && device === "cpu" ? converted.clone(format) : converted;
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

  /** Closes the file; tensors that were read from it stay valid. */
  close(): void {
    this.#mapping?.dispose();
    this.#mapping = undefined;
  }

  #map(): Tensor {
    try {
      return fromFile(this.file, { dtype: "uint8", size: this.header.size });
    } catch (cause) {
      // If the file is unchanged, it is not at fault: memory may have run out.
      if (statSync(this.file, { throwIfNoEntry: false })?.size === this.header.size) throw cause;
      const problem = `Expected the file that was opened but received: ${(cause as Error).message}`;
      throw new SafetensorsError(this.file, problem, undefined, { cause });
    }
  }

  #empty(entry: TensorEntry, dtype: DType, device: Device): Tensor {
    return tidy(() => this.#map().slice(0, 0, 0).to({ dtype, device }).reshape(entry.shape).clone());
  }
}

/**
 * Reads every tensor of a file, in the file's order.
 *
 * @throws SafetensorsError naming the file, and the key if one is at fault
 */
export function loadSafetensors(file: string, options: ReadOptions = {}): Map<string, Tensor> {
  const source = new SafetensorsFile(file);
  try {
    return new Map(source.keys().map((key) => [key, source.tensor(key, options)]));
  } finally {
    source.close();
  }
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

/** A tensor over a range of the mapped file. Ranges that are not aligned to their element size are copied. */
function view(mapping: Tensor, entry: TensorEntry, dtype: DType): Tensor {
  const range = mapping.narrow(0, entry.begin, entry.end - entry.begin);
  return (isAligned(entry) ? range : range.clone()).viewAs(dtype).reshape(entry.shape);
}

function isAligned({ begin, end, shape }: TensorEntry): boolean {
  const elements = shape.reduce((product, n) => product * n, 1);
  return begin % ((end - begin) / elements) === 0;
}

function is1x1([, , height, width]: readonly number[]): boolean {
  return height === 1 && width === 1;
}
