/** What learns, and how a run folder keeps it: a LoRA on the UNet, or all of the UNet's own weights. */
import { join } from "node:path";
import { LoraAdapter } from "../lora/index.js";
import type { UNet2DConditionModel } from "../models/index.js";
import { loadSafetensors } from "../safetensors/index.js";
import { allFinite, Generator, noGrad, type Tensor, tidy } from "../torch/index.js";
import type { Config } from "./config.js";
import { InputError } from "../base/errors.js";

/** LoraAdapter is one. */
export interface Learner {
  /** float32, recording gradients, by name. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Writes the weights to a file, or a folder. */
  save(path: string): void;
  /** Takes up what `save` wrote. @throws an error naming the file, and each key of it that is at fault */
  load(path: string): void;
  dispose(): void;
}

/** What a config trains, as it is before the first stage: it changes nothing yet. */
export function createLearner(unet: UNet2DConditionModel, { train, lora, seed }: Config): Learner {
  switch (train.parameters) {
    case "lora": {
      const { rank, alpha, targetModules } = lora;
      return LoraAdapter.inject(unet, { rank, alpha: alpha ?? rank, targetModules, generator: new Generator(seed) });
    }
    case "unet":
      return new UNetLearner(unet);
    default:
      return train.parameters satisfies never;
  }
}

/** Full fine-tuning. Kept as a UNet's folder in diffusers' layout. */
class UNetLearner implements Learner {
  readonly parameters: ReadonlyMap<string, Tensor>;

  constructor(private readonly unet: UNet2DConditionModel) {
    this.parameters = unet.requiresGrad_().parameters();
  }

  save(folder: string): void {
    this.unet.savePretrained(folder);
  }

  load(folder: string): void {
    loadUNet(this.unet, folder);
  }

  /** The weights are the pipeline's. */
  dispose(): void {
    for (const parameter of this.parameters.values()) parameter.grad = null;
  }
}

/**
 * Takes the weights of a folder in diffusers' layout into a UNet.
 *
 * @throws InputError naming the file and each key that is missing, unexpected, misshaped or not finite; the
 *   UNet is then as it was
 */
export function loadUNet(unet: UNet2DConditionModel, folder: string): void {
  const file = join(folder, "diffusion_pytorch_model.safetensors");
  const parameters = unet.parameters();
  tidy(() => {
    const stored = loadSafetensors(file);
    const inWords = (shape: readonly number[] | undefined): string => (shape ? `[${shape.join(", ")}]` : "none");
    const problems: string[] = [];
    for (const [name, { shape }] of parameters) {
      const received = stored.get(name);
      if (received?.shape.join() !== shape.join()) {
        problems.push(`${name}: Expected ${inWords(shape)} but received ${inWords(received?.shape)}`);
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
