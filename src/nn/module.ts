/**
 * `Weights` is a scope in a checkpoint, from which a layer requests parameters by their literal checkpoint names. They
 * are read from files or freshly initialised; the layer does not know which. `Module` is the base class of layers and
 * models: it belongs to a scope and lists the parameters in it.
 *
 * Problems of a checkpoint are collected while the model is built, and `finish` throws them all at once.
 */
import { keep, type Device, type Generator, type Tensor } from "../torch/index.js";
import { zerosInit, type Init } from "./init.js";
import { CheckpointSource, RandomSource, type CheckpointOptions, type Source, type WeightsOptions } from "./source.js";

/** What all scopes of one model share. */
interface Shared {
  readonly source: Source;
  readonly parameters: Map<string, Tensor>;
  /** Those of the parameters that never learn. */
  readonly buffers: Set<Tensor>;
  readonly modules: Map<string, Module>;
}

/** A scope in a checkpoint, see the top of this file. Made by `fromSafetensors` or `random`. */
export class Weights {
  /** Prefix of every key in this scope, without the last dot; empty for the whole model. */
  readonly path: string;
  readonly #shared: Shared;

  private constructor(shared: Shared, path: string) {
    this.#shared = shared;
    this.path = path;
  }

  /**
   * Reads parameters from safetensors files that together make one checkpoint. Kernels become channels-last.
   *
   * @throws SafetensorsError when a file is damaged or two files hold the same key
   */
  static fromSafetensors(files: string | readonly string[], options: CheckpointOptions = {}): Weights {
    return Weights.#of(new CheckpointSource(typeof files === "string" ? [files] : files, options));
  }

  /** Fresh parameters, drawn in the order in which the model requests them. */
  static random(generator: Generator, options: WeightsOptions = {}): Weights {
    return Weights.#of(new RandomSource(generator, options));
  }

  static #of(source: Source): Weights {
    return new Weights({ source, parameters: new Map(), buffers: new Set(), modules: new Map() }, "");
  }

  /** All parameters requested so far, by full key. */
  get parameters(): ReadonlyMap<string, Tensor> {
    return this.#shared.parameters;
  }

  /** Those of the parameters that `buffer` made. */
  get buffers(): ReadonlySet<Tensor> {
    return this.#shared.buffers;
  }

  /** All modules made so far, by path, outer ones first. */
  get modules(): ReadonlyMap<string, Module> {
    return this.#shared.modules;
  }

  /** A scope inside this one: `weights.at("down_blocks.0")`. */
  at(path: string): Weights {
    return new Weights(this.#shared, this.#key(path));
  }

  /** Whether the checkpoint has this parameter; always true for fresh weights. */
  has(name: string): boolean {
    return this.#shared.source.has(this.#key(name));
  }

  /**
   * Reads or initialises a parameter of this scope.
   *
   * @param name its literal name in checkpoints
   * @param init used when there is no checkpoint
   */
  parameter(name: string, shape: readonly number[], init: Init = zerosInit): Tensor {
    const { source, parameters } = this.#shared;
    const key = this.#key(name);
    if (parameters.has(key)) throw new Error(`Expected one parameter for ${key} but received two`);
    const tensor = keep(source.parameter(key, shape, init));
    parameters.set(key, tensor);
    return tensor;
  }

  /** A parameter that never learns: it is read, saved and moved as the others, but records no gradient. */
  buffer(name: string, shape: readonly number[], init?: Init): Tensor {
    const tensor = this.parameter(name, shape, init);
    this.#shared.buffers.add(tensor);
    return tensor;
  }

  /** Records the module of this scope. */
  register(module: Module): void {
    this.#shared.modules.set(this.path, module);
  }

  /**
   * Checks the checkpoint; call it once the whole model is built.
   *
   * @param options `ignore`: keys of the checkpoint that need not be read, such as buffers of older versions
   * @throws SafetensorsError naming every missing, misshaped, non-finite and unexpected key
   */
  finish({ ignore = [] }: { ignore?: readonly RegExp[] } = {}): void {
    this.#shared.source.finish(ignore);
  }

  /** Frees the parameters of a model that could not be built. */
  dispose(): void {
    for (const parameter of this.#shared.parameters.values()) parameter.dispose();
  }

  #key(name: string): string {
    return this.path === "" ? name : `${this.path}.${name}`;
  }
}

/** Base class of layers and models: knows its parameters by their checkpoint keys. */
export abstract class Module {
  /** Prefix of its parameters in the checkpoint; empty for a whole model. */
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

  /** Total number of elements in all parameters. */
  parameterCount(): number {
    return [...this.parameters().values()].reduce((sum, { numel }) => sum + numel, 0);
  }

  /** Sets whether gradients are recorded for the parameters, buffers aside. Off in new models. */
  requiresGrad_(on = true): this {
    const { buffers } = this.#weights;
    for (const parameter of this.parameters().values()) if (!buffers.has(parameter)) parameter.requiresGrad_(on);
    return this;
  }

  /**
   * Moves the parameters to a device, one at a time, and frees each where it was. Layers keep the tensors that they hold.
   *
   * @throws TorchError where the device has no memory for them; some are moved then, and another call can move them back
   */
  to_(device: Device): this {
    for (const parameter of this.parameters().values()) parameter.moveTo_(device);
    return this;
  }

  /** Frees the parameters. The module cannot be used afterwards. */
  dispose(): void {
    for (const parameter of this.parameters().values()) parameter.dispose();
  }

  #holds(key: string): boolean {
    return this.path === "" || key.startsWith(`${this.path}.`);
  }
}
