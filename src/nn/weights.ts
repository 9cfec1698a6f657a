/**
 * Where a model's parameters come from: a checkpoint or fresh draws. A layer asks its `Weights` for each parameter by
 * the literal name the checkpoint gives it, and never knows which of the two it was.
 *
 * Everything wrong with a checkpoint is collected while the model is built and thrown at once by `finish`.
 */
import { SafetensorsError, SafetensorsFile } from "../safetensors/index.js";
import { keep, tidy, zeros, type Device, type DType, type Generator, type Tensor } from "../torch/index.js";
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
  finish(asked: ReadonlyMap<string, Tensor>, ignore: readonly RegExp[]): void;
}

export interface WeightsOptions {
  /** The dtype parameters are held in, whatever they are stored in. Default float32. */
  readonly dtype?: DType;
  readonly device?: Device;
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
  static fromSafetensors(files: string | readonly string[], options: WeightsOptions = {}): Weights {
    const { dtype = "float32", device = "cpu" } = options;
    const source = new CheckpointSource(typeof files === "string" ? [files] : files, dtype, device);
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
    this.shared.source.finish(this.shared.parameters, ignore);
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
}

class CheckpointSource implements Source {
  readonly #files = new Map<string, SafetensorsFile>();
  readonly #problems: string[] = [];

  constructor(
    private readonly names: readonly string[],
    private readonly dtype: DType,
    private readonly device: Device,
  ) {
    for (const name of names) {
      const file = new SafetensorsFile(name);
      for (const key of file.keys()) {
        const other = this.#files.get(key);
        if (other !== undefined) {
          throw new SafetensorsError(name, `Expected each key in one file but received it in ${other.file} too`, key);
        }
        this.#files.set(key, file);
      }
    }
  }

  has(key: string): boolean {
    return this.#files.has(key);
  }

  parameter(key: string, shape: readonly number[]): Tensor {
    const file = this.#files.get(key);
    const entry = file?.header.tensors.get(key);
    if (file === undefined || entry === undefined) {
      return this.#wrong(`${key}: Expected [${shape.join(", ")}] but received nothing`, shape);
    }
    if (!["F64", "F32", "F16", "BF16"].includes(entry.dtype)) {
      return this.#wrong(`${key}: Expected floating point for dtype but received ${entry.dtype}`, shape);
    }
    if (entry.shape.length !== shape.length || entry.shape.some((n, i) => n !== shape[i])) {
      return this.#wrong(`${key}: Expected [${shape.join(", ")}] but received [${entry.shape.join(", ")}]`, shape);
    }
    const tensor = file.tensor(key, {
      dtype: this.dtype,
      device: this.device,
      ...(shape.length === 4 ? { memoryFormat: "channelsLast" } : {}),
    });
    if (!isFinite_(tensor)) this.#problems.push(`${key}: Expected finite numbers but received NaN or infinity`);
    return tensor;
  }

  finish(asked: ReadonlyMap<string, Tensor>, ignore: readonly RegExp[]): void {
    const unexpected = [...this.#files.keys()]
      .filter((key) => !asked.has(key) && !ignore.some((pattern) => pattern.test(key)))
      .map((key) => `${key}: Expected no such key`);
    const problems = [...this.#problems, ...unexpected];
    if (problems.length > 0) {
      throw new SafetensorsError(
        this.names.join(", "),
        `Expected the weights of this model but received ${problems.length} that differ:\n  ${problems.join("\n  ")}`,
      );
    }
  }

  /** Notes a problem and stands in with zeros that take no memory, so that the rest can be checked. */
  #wrong(problem: string, shape: readonly number[]): Tensor {
    this.#problems.push(problem);
    return tidy(() => zeros([], { dtype: this.dtype, device: this.device }).expand(shape));
  }
}

/** One pass over the data in the common case: a sum is finite only if its terms are, and nearly always then. */
function isFinite_(tensor: Tensor): boolean {
  let finite = true;
  tidy(() => {
    finite = Number.isFinite(tensor.sum().item()) || !tensor.sub(tensor).isnan().any().item();
  });
  return finite;
}
