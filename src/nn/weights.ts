/**
 * Where a model's parameters come from: a checkpoint or fresh draws. A layer asks its `Weights` for each parameter by
 * the literal name the checkpoint gives it, and never knows which of the two it was.
 *
 * Everything wrong with a checkpoint is collected while the model is built and thrown at once by `finish`.
 */
import { basename } from "node:path";
import { SafetensorsError, SafetensorsFile } from "../safetensors/index.js";
import { allFinite, keep, tidy, zeros, type Device, type DType, type Generator, type Tensor } from "../torch/index.js";
import { zerosInit, type Init } from "./init.js";
import type { Module } from "./module.js";

/** What the scopes of one model share. */
interface Shared {
  readonly source: Source;
  readonly dtype: DType;
  readonly device: Device;
  readonly parameters: Map<string, Tensor>;
  readonly modules: Map<string, Module>;
}

interface Source {
  has(key: string): boolean;
  parameter(key: string, shape: readonly number[], init: Init): Tensor;
  /** Throws what was wrong, and lets go of files. */
  finish(ignore: readonly RegExp[]): void;
  /** Lets go of files. */
  close(): void;
}

export interface WeightsOptions {
  /** The dtype parameters are held in, whatever they are stored in. Default float32. */
  readonly dtype?: DType;
  readonly device?: Device;
}

/** Where a checkpoint of another layout has a parameter, and in what form. */
export interface StoredParameter {
  readonly key: string;
  /**
   * "transposed": a matrix, the other way round. "point": a matrix as a kernel of 1x1. `part` of three: the rows of q, k or v
   * in one matrix.
   */
  readonly form?: "transposed" | "point" | { readonly part: 0 | 1 | 2 };
}

export interface CheckpointOptions extends WeightsOptions {
  /** Translates the model's own keys into the file's; those of no other layout when left out. */
  readonly stored?: (key: string) => StoredParameter;
  /** The keys that belong to this model are those that begin with this. Default: all. */
  readonly prefix?: string;
}

export class Weights {
  private constructor(
    private readonly shared: Shared,
    /** The prefix of every key of this scope, without the last dot. */
    readonly path: string,
  ) {}

  /**
   * Parameters from safetensors files whose keys together make one checkpoint. Kernels are laid out channels-last.
   *
   * @throws SafetensorsError when a file is not sound or two files hold the same key
   */
  static fromSafetensors(files: string | readonly string[], options: CheckpointOptions = {}): Weights {
    const { dtype = "float32", device = "cpu" } = options;
    const source = new CheckpointSource(typeof files === "string" ? [files] : files, { ...options, dtype, device });
    return Weights.#of(source, dtype, device);
  }

  /** Fresh parameters, drawn in the order in which the model asks for them. */
  static random(generator: Generator, options: WeightsOptions = {}): Weights {
    const { dtype = "float32", device = "cpu" } = options;
    return Weights.#of(new RandomSource(generator, dtype, device), dtype, device);
  }

  static #of(source: Source, dtype: DType, device: Device): Weights {
    return new Weights({ source, dtype, device, parameters: new Map(), modules: new Map() }, "");
  }

  /** Every parameter asked for so far, by full key. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.shared.parameters;
  }

  /** Every module made so far, by path, outer ones first. */
  get modules(): ReadonlyMap<string, Module> {
    return this.shared.modules;
  }

  /** The scope below: `weights.at("down_blocks.0")`. */
  at(path: string): Weights {
    return new Weights(this.shared, this.#key(path));
  }

  /** Whether the source can give this parameter; fresh weights can give any. */
  has(name: string): boolean {
    return this.shared.source.has(this.#key(name));
  }

  /**
   * A parameter of this scope.
   *
   * @param name its literal name in checkpoints
   * @param init how to draw it when there is no checkpoint
   */
  parameter(name: string, shape: readonly number[], init: Init = zerosInit): Tensor {
    const key = this.#key(name);
    if (this.shared.parameters.has(key)) throw new Error(`Expected one parameter for ${key} but received two`);
    const tensor = keep(this.shared.source.parameter(key, shape, init));
    this.shared.parameters.set(key, tensor);
    return tensor;
  }

  /** Remembers a module made at this scope. */
  register(module: Module): void {
    this.shared.modules.set(this.path, module);
  }

  /**
   * Call once the whole model is made.
   *
   * @param options.ignore keys of the checkpoint that are rightly left unread, such as buffers of older versions
   * @throws SafetensorsError naming every missing, misshaped, non-finite and unexpected key
   */
  finish({ ignore = [] }: { ignore?: readonly RegExp[] } = {}): void {
    this.shared.source.finish(ignore);
  }

  /** Gives up on a model that could not be made: frees its parameters so far, and lets go of files. */
  dispose(): void {
    for (const parameter of this.shared.parameters.values()) parameter.dispose();
    this.shared.source.close();
  }

  #key(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }
}

class RandomSource implements Source {
  constructor(
    private readonly generator: Generator,
    private readonly dtype: DType,
    private readonly device: Device,
  ) {}

  has(): boolean {
    return true;
  }

  parameter(_key: string, shape: readonly number[], init: Init): Tensor {
    return tidy(() => {
      const drawn = init(shape, { generator: this.generator, dtype: this.dtype, device: this.device });
      return shape.length === 4 ? drawn.contiguous({ memoryFormat: "channelsLast" }) : drawn;
    });
  }

  finish(): void {
    // Nothing can be missing.
  }

  close(): void {
    // No file is open.
  }
}

class CheckpointSource implements Source {
  readonly #files = new Map<string, SafetensorsFile>();
  readonly #problems: string[] = [];
  /** The files' keys that the model has asked for. */
  readonly #taken = new Set<string>();

  constructor(
    private readonly names: readonly string[],
    private readonly options: CheckpointOptions & Required<WeightsOptions>,
  ) {
    const { prefix = "" } = options;
    for (const name of names) {
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
    return this.#files.has(this.#stored(key).key);
  }

  parameter(asked: string, shape: readonly number[]): Tensor {
    const { key, form } = this.#stored(asked);
    const file = this.#files.get(key);
    const entry = file?.header.tensors.get(key);
    const expected = storedShape(shape, form);
    if (file === undefined || entry === undefined) {
      return this.#wrong(`${this.#at(key)}: Expected [${expected.join(", ")}] but received nothing`, shape);
    }
    this.#taken.add(key);
    if (!["F64", "F32", "F16", "BF16"].includes(entry.dtype)) {
      return this.#wrong(`${this.#at(key)}: Expected floating point for dtype but received ${entry.dtype}`, shape);
    }
    if (entry.shape.length !== expected.length || entry.shape.some((n, i) => n !== expected[i])) {
      return this.#wrong(
        `${this.#at(key)}: Expected [${expected.join(", ")}] but received [${entry.shape.join(", ")}]`,
        shape,
      );
    }
    const { dtype, device } = this.options;
    const tensor = tidy(() => {
      const format = shape.length === 4 ? ({ memoryFormat: "channelsLast" } as const) : {};
      return formed(file.tensor(key, { dtype, device, ...format }), shape, form);
    });
    if (!allFinite(tensor))
      this.#problems.push(`${this.#at(key)}: Expected finite numbers but received NaN or infinity`);
    return tensor;
  }

  finish(ignore: readonly RegExp[]): void {
    this.close();
    const { prefix = "" } = this.options;
    const unexpected = [...this.#files.keys()]
      .filter((key) => !this.#taken.has(key) && !ignore.some((pattern) => pattern.test(key.slice(prefix.length))))
      .map((key) => `${this.#at(key)}: Expected no such key`);
    const problems = [...this.#problems, ...unexpected];
    if (problems.length > 0) {
      throw new SafetensorsError(
        this.names.join(", "),
        `Expected the weights of this model but received ${problems.length} that differ:\n  ${problems.join("\n  ")}`,
      );
    }
  }

  close(): void {
    for (const file of new Set(this.#files.values())) file.close();
  }

  #stored(key: string): StoredParameter {
    return this.options.stored?.(key) ?? { key };
  }

  /** A key in an error message; of several files, with the one that holds it. */
  #at(key: string): string {
    const file = this.#files.get(key);
    return this.names.length > 1 && file !== undefined ? `${basename(file.file)}: ${key}` : key;
  }

  /** Notes a problem and stands in with zeros that take no memory, so that the rest can be checked. */
  #wrong(problem: string, shape: readonly number[]): Tensor {
    this.#problems.push(problem);
    const { dtype, device } = this.options;
    return tidy(() => zeros([], { dtype, device }).expand(shape));
  }
}

function storedShape(shape: readonly number[], form: StoredParameter["form"]): readonly number[] {
  if (form === undefined) return shape;
  if (form === "transposed") return shape.toReversed();
  if (form === "point") return [...shape, 1, 1];
  return [3 * shape[0]!, ...shape.slice(1)];
}

/** A stored tensor as the parameter that the layer asked for. */
function formed(stored: Tensor, shape: readonly number[], form: StoredParameter["form"]): Tensor {
  if (form === undefined) return stored;
  if (form === "transposed") return stored.transpose(0, 1).contiguous();
  if (form === "point") return stored.reshape(shape);
  return stored.narrow(0, form.part * shape[0]!, shape[0]!);
}
