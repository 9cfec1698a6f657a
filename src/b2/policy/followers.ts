/**
 * Weights that follow those in training: their moving average (EMA), which is evaluated and saved as the result, and
 * those that sample, where an objective wants them to lag behind.
 */
import { makeFolder } from "../../base/files.js";
import { SafetensorsError } from "../../safetensors/index.js";
import { tensor, type Tensor } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import { needsOf } from "../objectives/index.js";
import type { Trainable } from "./trainable.js";
import { WeightCopy } from "./weight-copy.js";

/** The folder that each set is saved in, in the form of the weights in training. */
export interface FollowerPaths {
  readonly ema: string;
  readonly sampler: string;
}

const UPDATES_KEY = "ema.updates";

/** The followers that a config asks for, see the top of this file. Owns their memory: call `dispose`. */
export class Followers {
  readonly #trainable: Trainable;
  /** Bound of the average's decay. */
  readonly #emaDecay: number;
  readonly #samplerDecay: ((stage: number) => number) | null;
  readonly #ema: WeightCopy | undefined;
  readonly #sampler: WeightCopy | undefined;
  /** Optimiser steps that the average has seen. */
  #updates = 0;

  /** Begins with the current weights. */
  constructor(trainable: Trainable, { train, objective }: Pick<Config, "train" | "objective">) {
    this.#trainable = trainable;
    this.#emaDecay = train.ema ?? 0;
    this.#samplerDecay = needsOf(objective).samplerDecay;
    this.#ema = train.ema === null ? undefined : new WeightCopy(trainable.parameters);
    this.#sampler = this.#samplerDecay === null ? undefined : new WeightCopy(trainable.parameters);
  }

  /** The weights that sample; undefined if they are those in training. */
  get sampler(): WeightCopy | undefined {
    return this.#sampler;
  }

  /**
   * To be called after each optimiser step. The average's decay grows with the number n of steps so far, as (1 + n) /
   * (10 + n) up to its bound, so that a short run is not held back by where it began (as in diffusers' EMAModel).
   */
  updated(): void {
    this.#updates++;
    this.#ema?.follow(Math.min(this.#emaDecay, (1 + this.#updates) / (10 + this.#updates)));
  }

  /** To be called after each stage's update: old <- d old + (1 - d) new. */
  finished(stage: number): void {
    if (this.#samplerDecay !== null) this.#sampler!.follow(this.#samplerDecay(stage));
  }

  /** Runs `work` with the weights that sample. */
  sampling<T>(work: () => Promise<T>): Promise<T> {
    return this.#sampler === undefined ? work() : this.#sampler.during(work);
  }

  /** Runs `work` with the weights that are the result of the training: the average, if there is one. */
  evaluating<T>(work: () => Promise<T>): Promise<T> {
    return this.#ema === undefined ? work() : this.#ema.during(work);
  }

  /** Like `evaluating`, for work that takes no time of the event loop. */
  withResult<T>(work: () => T): T {
    return this.#ema === undefined ? work() : this.#ema.use(work);
  }

  /** Euclidean distance of the average from the weights in training; null without one. */
  get emaDistance(): number | null {
    return this.#ema?.distance() ?? null;
  }

  /** Writes each set to its folder. */
  save({ ema, sampler }: FollowerPaths): void {
    const saveTo = (folder: string) => (): void => {
      makeFolder(folder);
      this.#trainable.save(folder);
    };
    this.#ema?.use(saveTo(ema));
    this.#sampler?.use(saveTo(sampler));
  }

  /** Loads what `save` wrote. @throws InputError naming the file and every key at fault */
  load({ ema, sampler }: FollowerPaths): void {
    this.#ema?.use(() => this.#trainable.load(ema));
    this.#sampler?.use(() => this.#trainable.load(sampler));
  }

  /** Loads what `evaluating` works with. @throws InputError naming the file and every key at fault */
  loadResult({ ema }: Pick<FollowerPaths, "ema">): void {
    this.#ema?.use(() => this.#trainable.load(ema));
  }

  /** What there is to store beside an optimiser's state; empty without an average. */
  state(): Map<string, Tensor> {
    if (this.#ema === undefined) return new Map();
    return new Map([[UPDATES_KEY, tensor([this.#updates], { dtype: "float64" })]]);
  }

  /**
   * Loads its own entry of a saved state.
   *
   * @param source its file, named in errors
   * @returns the other entries
   * @throws SafetensorsError if its entry is missing or invalid
   */
  loadState(state: ReadonlyMap<string, Tensor>, source: string): Map<string, Tensor> {
    const rest = new Map(state);
    if (this.#ema === undefined) return rest;
    const updates = rest.get(UPDATES_KEY)?.toArray() ?? [];
    rest.delete(UPDATES_KEY);
    const [count] = updates;
    if (updates.length !== 1 || !Number.isInteger(count) || count! < 0) {
      throw new SafetensorsError(source, `Expected a whole number but received ${String(count)}`, UPDATES_KEY);
    }
    this.#updates = count!;
    return rest;
  }

  dispose(): void {
    this.#ema?.dispose();
    this.#sampler?.dispose();
  }
}
