/** The weights in training, and how they are saved: a LoRA on the denoiser, or all of the denoiser's own weights. */
import { join } from "node:path";
import { InputError } from "../../base/errors.js";
import { showShape } from "../../base/show.js";
import { LoraAdapter } from "../../lora/index.js";
import type { Module } from "../../nn/index.js";
import type { DiffusionModel } from "../../pipeline/index.js";
import { loadSafetensors } from "../../safetensors/index.js";
import { allFinite, Generator, noGrad, tidy, type Tensor } from "../../torch/index.js";
import type { Config } from "../config/schema.js";
import { WeightCopy } from "./weight-copy.js";

export interface Trainable {
  /** float32 with requiresGrad, by name. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Writes the weights to a file, or a folder. */
  save(path: string): void;
  /** Loads what `save` wrote. @throws InputError naming the file and every key at fault */
  load(path: string): void;
  /** Runs `work` with the weights from before any training, without recording gradients. */
  withBase<T>(work: () => T): T;
  dispose(): void;
}

/**
 * The weights that a config trains, in their state before the first stage: predictions are still those of the base
 * model.
 *
 * @param options.keepsBase whether `withBase` will be called; full fine-tuning then keeps a copy of all weights
 */
export function createTrainable(
  model: DiffusionModel,
  { train, lora, seed }: Pick<Config, "train" | "lora" | "seed">,
  { keepsBase = false }: { keepsBase?: boolean } = {},
): Trainable {
  switch (train.parameters) {
    case "lora": {
      const { rank, alpha, targetModules } = lora;
      const options = {
        rank,
        alpha: alpha ?? rank,
        targetModules: targetModules ?? model.loraTargets,
        part: model.denoiserName,
        generator: new Generator(seed),
      };
      return new LoraTrainable(LoraAdapter.inject(model.denoiser, options));
    }
    case "full":
      return new FullTrainable(model, keepsBase);
    default:
      return train.parameters satisfies never;
  }
}

/** A LoRA, saved as one file. */
class LoraTrainable implements Trainable {
  readonly #adapter: LoraAdapter;

  constructor(adapter: LoraAdapter) {
    this.#adapter = adapter;
  }

  get parameters(): ReadonlyMap<string, Tensor> {
    return this.#adapter.parameters;
  }

  save(file: string): void {
    this.#adapter.save(file);
  }

  load(file: string): void {
    this.#adapter.load(file);
  }

  withBase<T>(work: () => T): T {
    this.#adapter.enabled = false;
    try {
      return noGrad(work);
    } finally {
      this.#adapter.enabled = true;
    }
  }

  dispose(): void {
    this.#adapter.dispose();
  }
}

/** Full fine-tuning of all but the denoiser's buffers, saved as the denoiser's folder in diffusers' layout. */
class FullTrainable implements Trainable {
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly #model: DiffusionModel;
  readonly #base: WeightCopy | undefined;

  constructor(model: DiffusionModel, keepsBase: boolean) {
    this.#model = model;
    const all = model.denoiser.requiresGrad_().parameters();
    this.parameters = new Map([...all].filter(([, parameter]) => parameter.requiresGrad));
    this.#base = keepsBase ? new WeightCopy(this.parameters) : undefined;
  }

  save(folder: string): void {
    this.#model.saveDenoiser(folder);
  }

  load(folder: string): void {
    loadDenoiser(this.#model.denoiser, folder);
  }

  withBase<T>(work: () => T): T {
    if (this.#base === undefined)
      throw new Error(
        "Expected keepsBase when full fine-tuning is created but received none, so there is no copy of the base weights",
      );
    return this.#base.use(work);
  }

  /** The weights themselves belong to the model, which frees them. */
  dispose(): void {
    this.#base?.dispose();
    for (const parameter of this.parameters.values()) parameter.grad = null;
  }
}

/**
 * Loads the weights of a folder in diffusers' layout into a denoiser.
 *
 * @throws InputError naming the file and each key that is missing, unexpected, misshaped or not finite; the
 *   denoiser is unchanged then
 */
export function loadDenoiser(denoiser: Module, folder: string): void {
  const file = join(folder, "diffusion_pytorch_model.safetensors");
  const parameters = denoiser.parameters();
  tidy(() => {
    const stored = loadSafetensors(file);
    const problems: string[] = [];
    for (const [name, { shape }] of parameters) {
      const received = stored.get(name);
      if (received?.shape.join() !== shape.join()) {
        problems.push(`${name}: Expected ${showShape(shape)} but received ${showShape(received?.shape)}`);
      } else if (!isFloat(received)) {
        problems.push(`${name}: Expected floating point for dtype but received ${received.dtype}`);
      } else if (!allFinite(received)) {
        problems.push(`${name}: Expected finite numbers but received NaN or infinity`);
      }
    }
    for (const name of stored.keys()) if (!parameters.has(name)) problems.push(`${name}: Expected no such tensor`);
    if (problems.length > 0) throw new InputError(`${file}: ${problems.join("\n  ")}`);
    noGrad(() => {
      for (const [name, parameter] of parameters) parameter.copy_(stored.get(name)!);
    });
  });
}

const isFloat = ({ dtype }: Tensor): boolean => /^b?float/.test(dtype);
