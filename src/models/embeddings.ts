/**
 * Embeddings of scalars: sinusoids of a timestep (or of SDXL's sizes), and the two-layer perceptron after them.
 * Source: "Denoising Diffusion Probabilistic Models", as laid out by diffusers' `get_timestep_embedding`.
 */
import { Linear, Module, type Weights } from "../nn/index.js";
import { arange, cat, keep, silu, tensor, tidy, type Device, type Tensor } from "../torch/index.js";

export interface TimestepsOptions {
  /** [cos, sin] instead of [sin, cos]. */
  readonly flipSinToCos: boolean;
  /** Frequencies run from 1 to 10000^-((half - 1) / (half - freqShift)). */
  readonly freqShift: number;
}

const MAX_PERIOD = 10_000;

/** Sinusoidal features of numbers: `channels` of them, the frequencies computed once. */
export class Timesteps {
  readonly channels: number;
  readonly #options: TimestepsOptions;
  readonly #frequencies = new Map<Device, Tensor>(); // [1, channels / 2]

  constructor(channels: number, options: TimestepsOptions) {
    if (channels % 2 !== 0) throw new Error(`Expected an even number of time channels but received ${channels}`);
    this.channels = channels;
    this.#options = options;
  }

  /** Numbers [N] -> float32 [N, channels] */
  forward(values: Tensor): Tensor {
    return tidy(() => {
      const angles = values.to({ dtype: "float32" }).unsqueeze(1).mul(this.#frequenciesOn(values.device));
      const [sin, cos] = [angles.sin(), angles.cos()];
      return cat(this.#options.flipSinToCos ? [cos, sin] : [sin, cos], 1);
    });
  }

  /** Frees the frequencies, which are computed again when they are needed. */
  dispose(): void {
    for (const frequencies of this.#frequencies.values()) frequencies.dispose();
    this.#frequencies.clear();
  }

  #frequenciesOn(device: Device): Tensor {
    let frequencies = this.#frequencies.get(device);
    if (frequencies === undefined) {
      const half = this.channels / 2;
      const rate = -Math.log(MAX_PERIOD) / (half - this.#options.freqShift);
      frequencies = keep(tidy(() => arange(0, half).to({ dtype: "float32", device }).mul(rate).exp().unsqueeze(0)));
      this.#frequencies.set(device, frequencies);
    }
    return frequencies;
  }
}

/** Linear, SiLU, linear. */
export class TimestepEmbedding extends Module {
  readonly #linear1: Linear;
  readonly #linear2: Linear;

  constructor(weights: Weights, inChannels: number, timeEmbedDim: number) {
    super(weights);
    this.#linear1 = new Linear(weights.at("linear_1"), inChannels, timeEmbedDim);
    this.#linear2 = new Linear(weights.at("linear_2"), timeEmbedDim, timeEmbedDim);
  }

  /** [B, inChannels] -> [B, timeEmbedDim] */
  forward(features: Tensor): Tensor {
    return this.#linear2.forward(silu(this.#linear1.forward(features)));
  }
}

/** One timestep per row, or a single one for all: [B] or [1]. */
export function timestepTensor(timesteps: number | readonly number[] | Tensor, batch: number): Tensor {
  const steps =
    typeof timesteps === "number"
      ? tensor([timesteps])
      : Array.isArray(timesteps)
        ? tensor(timesteps)
        : (timesteps as Tensor);
  if (steps.numel !== 1 && steps.numel !== batch) {
    throw new Error(`Expected 1 or ${batch} timesteps, as the sample has rows, but received ${steps.numel}`);
  }
  return steps.reshape([-1]);
}
