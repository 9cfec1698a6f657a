/** The two sources of a model's parameters: random initialisation, and the safetensors files of a checkpoint. */
import { basename } from "node:path";
import { SafetensorsError, SafetensorsFile, TensorCheck } from "../safetensors/index.js";
import { arange, cat, tidy, zeros, type Device, type DType, type Generator, type Tensor } from "../torch/index.js";
import type { Init } from "./init.js";

/** How parameters are kept in memory. */
export interface WeightsOptions {
  /** Parameters are converted to this dtype. Default float32. */
  readonly dtype?: DType;
  /** Default "cpu". */
  readonly device?: Device;
  /** Parameters that a file stores in half precision stay as they are stored. Default false. */
  readonly keepHalf?: boolean;
}

/** Where a checkpoint in another layout stores a parameter, and how. */
export interface StoredParameter {
  readonly key: string;
  /**
   * Transposed, as the kernel of a 1x1 convolution, with its second half of rows first, not at all where it is the
   * identity, or as the q, k or v third of one matrix. Default "as-is".
   */
  readonly stored?: "as-is" | "transposed" | "conv1x1" | "swapped" | "identity" | { readonly qkv: 0 | 1 | 2 };
}

/** How parameters are found in a checkpoint. */
export interface CheckpointOptions extends WeightsOptions {
  /** Maps each of the model's keys to the file's. Default: the same key. */
  readonly names?: (key: string) => StoredParameter;
  /** Only keys of the file with this prefix belong to the model. Default: all. */
  readonly prefix?: string;
}

export interface Source {
  readonly dtype: DType;
  readonly device: Device;
  /** Whether the source has this parameter. */
  has(key: string): boolean;
  parameter(key: string, shape: readonly number[], init: Init): Tensor;
  /** @throws SafetensorsError with all problems found */
  finish(ignore: readonly RegExp[]): void;
}

export class RandomSource implements Source {
  readonly dtype: DType;
  readonly device: Device;
  readonly #generator: Generator;

  constructor(generator: Generator, { dtype = "float32", device = "cpu" }: WeightsOptions) {
    this.dtype = dtype;
    this.device = device;
    this.#generator = generator;
  }

  has(): boolean {
    return true;
  }

  parameter(_key: string, shape: readonly number[], init: Init): Tensor {
    return tidy(() => {
      const drawn = init(shape, { generator: this.#generator, dtype: this.dtype, device: this.device });
      return shape.length === 4 ? drawn.contiguous({ memoryFormat: "channelsLast" }) : drawn;
    });
  }

  finish(): void {
    // Nothing can be missing.
  }
}

const HALF: ReadonlySet<DType> = new Set<DType>(["float16", "bfloat16"]);

export class CheckpointSource implements Source {
  readonly dtype: DType;
  readonly device: Device;
  readonly #keepHalf: boolean;
  readonly #fileNames: readonly string[];
  readonly #names: (key: string) => StoredParameter;
  readonly #prefix: string;
  /** The file of each key. */
  readonly #files = new Map<string, SafetensorsFile>();
  readonly #check = new TensorCheck();
  /** The files' keys that the model has requested. */
  readonly #taken = new Set<string>();

  constructor(fileNames: readonly string[], options: CheckpointOptions) {
    const { dtype = "float32", device = "cpu", keepHalf = false, names = (key) => ({ key }), prefix = "" } = options;
    this.dtype = dtype;
    this.device = device;
    this.#keepHalf = keepHalf;
    this.#fileNames = fileNames;
    this.#names = names;
    this.#prefix = prefix;
    for (const name of fileNames) {
      const file = new SafetensorsFile(name);
      for (const key of file.keys().filter((key) => key.startsWith(prefix))) {
        const other = this.#files.get(key);
        if (other !== undefined) {
          throw new SafetensorsError(name, `Expected each key in one file but received it in ${other.file} too`, key);
        }
        this.#files.set(key, file);
      }
    }
  }

  has(key: string): boolean {
    return this.#files.has(this.#names(key).key);
  }

  parameter(asked: string, shape: readonly number[]): Tensor {
    const { key, stored = "as-is" } = this.#names(asked);
    if (stored === "identity" && shape[0] === shape[1]) return identity(shape[0]!, this);
    const file = this.#files.get(key);
    const entry = file?.header.tensors.get(key);
    const name = this.#inWords(key);
    this.#taken.add(key);
    if (!this.#check.fits(name, { shape: storedShape(shape, stored) }, entry)) return this.#standIn(shape);
    const tensor = tidy(() => {
      const format = shape.length === 4 ? ({ memoryFormat: "channelsLast" } as const) : {};
      const inFile = file!.dtype(key);
      const dtype = this.#keepHalf && HALF.has(inFile) ? inFile : this.dtype;
      const tensor = asAsked(file!.tensor(key, { dtype, device: this.device, ...format }), shape, stored);
      // A third of a tensor that was converted for it would keep the other two in memory.
      const isConverted = this.device !== "cpu" || inFile !== dtype;
      return isConverted && typeof stored !== "string" ? tensor.clone() : tensor;
    });
    this.#check.finite(name, tensor);
    return tensor;
  }

  finish(ignore: readonly RegExp[]): void {
    for (const key of this.#files.keys()) {
      const isIgnored = ignore.some((pattern) => pattern.test(key.slice(this.#prefix.length)));
      if (!this.#taken.has(key) && !isIgnored) this.#check.unexpected(this.#inWords(key));
    }
    this.#check.finish(this.#fileNames.join(", "), "the weights of this model");
  }

  /** A key as errors show it: with its file, if there are several. */
  #inWords(key: string): string {
    const file = this.#files.get(key);
    return this.#fileNames.length > 1 && file !== undefined ? `${basename(file.file)}: ${key}` : key;
  }

  /** Zeros without memory, in place of a parameter that does not fit, so that the remaining ones can be checked. */
  #standIn(shape: readonly number[]): Tensor {
    return tidy(() => zeros([], { dtype: this.dtype, device: this.device }).expand(shape));
  }
}

type Stored = NonNullable<StoredParameter["stored"]>;

/** The shape that a file stores for a parameter of this shape. */
export function storedShape(shape: readonly number[], stored: Stored): readonly number[] {
  switch (stored) {
    case "as-is":
    case "swapped":
    case "identity":
      return shape;
    case "transposed":
      return shape.toReversed();
    case "conv1x1":
      return [...shape, 1, 1];
    default:
      return [3 * shape[0]!, ...shape.slice(1)];
  }
}

/** Converts a stored tensor to the parameter that the layer requested. */
function asAsked(tensor: Tensor, shape: readonly number[], stored: Stored): Tensor {
  switch (stored) {
    case "as-is":
    case "identity":
      return tensor;
    case "swapped":
      return halvesSwapped(tensor);
    case "transposed":
      return tensor.transpose(0, 1).contiguous();
    case "conv1x1":
      return tensor.reshape(shape);
    default:
      // A copy: a view would keep all three thirds in memory.
      return tensor.narrow(0, stored.qkv * shape[0]!, shape[0]!).clone();
  }
}

/** The second half of the rows before the first: a copy. */
export const halvesSwapped = (tensor: Tensor): Tensor => tidy(() => cat(tensor.chunk(2, 0).toReversed()));

/** The identity matrix of a size. */
const identity = (size: number, { dtype, device }: Pick<Source, "dtype" | "device">): Tensor =>
  tidy(() => {
    const place = arange(0, size);
    return place.unsqueeze(1).eq(place).to({ dtype, device });
  });
