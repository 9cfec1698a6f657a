/**
 * `Weights` is a place in a checkpoint, from which a layer asks for its parameters by the literal names that the checkpoint
 * gives them; whether they are read or freshly drawn, the layer does not know. `Module` is what layers and models have in
 * common: such a place, and from it their parameters.
 *
 * Everything wrong with a checkpoint is collected while the model is built and thrown at once by `finish`.
 */
import { keep, type Generator, type Tensor } from "../torch/index.js";
import { zerosInit, type Init } from "./init.js";
import { CheckpointSource, RandomSource, type CheckpointOptions, type Source, type WeightsOptions } from "./source.js";

/** What the places of one model share. */
interface Shared {
  readonly source: Source;
  readonly parameters: Map<string, Tensor>;
  readonly modules: Map<string, Module>;
}

export class Weights {
  /** The beginning of every key at this place, without the last dot; empty for the whole model. */
  readonly path: string;
  readonly #shared: Shared;

  private constructor(shared: Shared, path: string) {
    this.#shared = shared;
    this.path = path;
  }

  /**
   * Parameters from safetensors files whose keys together make one checkpoint. Kernels are laid out channels-last.
   *
   * @throws SafetensorsError when a file is not sound or two files hold the same key
   */
  static fromSafetensors(files: string | readonly string[], options: CheckpointOptions = {}): Weights {
    return Weights.#of(new CheckpointSource(typeof files === "string" ? [files] : files, options));
  }

  /** Fresh parameters, drawn in the order in which the model asks for them. */
  static random(generator: Generator, options: WeightsOptions = {}): Weights {
    return Weights.#of(new RandomSource(generator, options));
  }

  static #of(source: Source): Weights {
    return new Weights({ source, parameters: new Map(), modules: new Map() }, "");
  }

  /** Every parameter asked for so far, by full key. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.#shared.parameters;
  }

  /** Every module made so far, by path, outer ones first. */
  get modules(): ReadonlyMap<string, Module> {
    return this.#shared.modules;
  }

  /** The place below: `weights.at("down_blocks.0")`. */
  at(path: string): Weights {
    return new Weights(this.#shared, this.#key(path));
  }

  /** Whether the source has this parameter; fresh weights have any. */
  has(name: string): boolean {
    return this.#shared.source.has(this.#key(name));
  }

  /**
   * A parameter of this place.
   *
   * @param name its literal name in checkpoints
   * @param init how to draw it when there is no checkpoint
   */
  parameter(name: string, shape: readonly number[], init: Init = zerosInit): Tensor {
    const { source, parameters } = this.#shared;
    const key = this.#key(name);
    if (parameters.has(key)) throw new Error(`Expected one parameter for ${key} but received two`);
    const tensor = keep(source.parameter(key, shape, init));
    parameters.set(key, tensor);
    return tensor;
  }

  /** Remembers a module made at this place. */
  register(module: Module): void {
    this.#shared.modules.set(this.path, module);
  }

  /**
   * Call once the whole model is made.
   *
   * @param options.ignore keys of the checkpoint that are rightly left unread, such as buffers of older versions
   * @throws SafetensorsError naming every missing, misshaped, non-finite and unexpected key
   */
  finish({ ignore = [] }: { ignore?: readonly RegExp[] } = {}): void {
    this.#shared.source.finish(ignore);
  }

  /** Gives up on a model that could not be made: frees its parameters so far, and closes the files. */
  dispose(): void {
    for (const parameter of this.#shared.parameters.values()) parameter.dispose();
    this.#shared.source.close();
  }

  #key(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }
}

export abstract class Module {
  /** Where the parameters lie in the checkpoint; empty for a whole model. */
  readonly path: string;
  readonly #weights: Weights;

  constructor(weights: Weights) {
    this.path = weights.path;
    this.#weights = weights;
    weights.register(this);
  }

  /** The parameters of this module and those inside it, by full checkpoint key. */
  parameters(): Map<string, Tensor> {
    return new Map([...this.#weights.parameters].filter(([key]) => this.#holds(key)));
  }

  /** This module and those inside it, by path. */
  modules(): Map<string, Module> {
    return new Map([...this.#weights.modules].filter(([path]) => path === this.path || this.#holds(path)));
  }

  /** Numbers in all parameters. */
  parameterCount(): number {
    return [...this.parameters().values()].reduce((sum, { numel }) => sum + numel, 0);
  }

  /** Sets whether gradients are recorded for the parameters. Models come with this off. */
  requiresGrad_(on = true): this {
    for (const parameter of this.parameters().values()) parameter.requiresGrad_(on);
    return this;
  }

  /** Frees the parameters. The module is of no use afterwards. */
  dispose(): void {
    for (const parameter of this.parameters().values()) parameter.dispose();
  }

  #holds(key: string): boolean {
    return this.path === "" || key.startsWith(`${this.path}.`);
  }
}
