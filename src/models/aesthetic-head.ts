/**
 * LAION's aesthetic predictor (github.com/christophschuhmann/improved-aesthetic-predictor): the mean rating that people
 * would give an image, from CLIP's features of length 1. Five linear layers with nothing in between but dropout, which
 * only training uses; the layers' numbers in the file count the dropouts.
 */
import { statSync } from "node:fs";
import { isPickle, pickleRefused } from "../base/pickle.js";
import { Linear, Module, Weights, type WeightsOptions } from "../nn/index.js";
import { readHeader, SafetensorsError } from "../safetensors/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { ModelConfigError } from "./config.js";
import { weightFiles } from "./pretrained.js";

/** Numbers of the linear layers. */
const LAYERS = [0, 2, 4, 6, 7];

export class AestheticHead extends Module {
  /** Of the features: 768 for CLIP ViT-L/14. */
  readonly inFeatures: number;
  readonly #layers: readonly Linear[];

  /** @param widths of the features and of each layer's output, the last of which is 1 */
  constructor(widths: readonly number[], weights: Weights) {
    super(weights);
    this.inFeatures = widths[0]!;
    this.#layers = LAYERS.map((number, i) => new Linear(weights.at(`layers.${number}`), widths[i]!, widths[i + 1]!));
  }

  /**
   * Loads a safetensors file, or a folder with `model.safetensors`.
   *
   * @throws InputError naming the file and each key at fault, and for a pickle; nothing stays in memory then
   */
  static fromPretrained(path: string, options: WeightsOptions = {}): AestheticHead {
    if (isPickle(path)) throw new ModelConfigError(pickleRefused(path));
    const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
    const [file = path, ...others] = isFolder ? weightFiles(path, "model") : [path];
    const widths = widthsIn(file);
    const weights = Weights.fromSafetensors([file, ...others], options);
    try {
      const head = new AestheticHead(widths, weights);
      weights.finish();
      return head;
    } catch (error) {
      weights.dispose();
      throw error;
    }
  }

  /** Features [B, inFeatures] of length 1, on any device -> [B] ratings, about 1 to 10, on the head's */
  forward(features: Tensor): Tensor {
    const { device } = this.#layers[0]!.weight;
    return tidy(() => this.#layers.reduce((x, layer) => layer.forward(x), features.to({ device })).squeeze(-1));
  }
}

/** The sizes between the layers, which only the shapes of the weights tell. */
function widthsIn(file: string): number[] {
  const { tensors } = readHeader(file);
  const first = tensors.get("layers.0.weight")?.shape[1];
  const outputs = LAYERS.map((number) => tensors.get(`layers.${number}.weight`)?.shape[0]);
  if (first === undefined || outputs.includes(undefined) || outputs.at(-1) !== 1) {
    const keys = [...tensors.keys()].slice(0, 3).join(", ");
    throw new SafetensorsError(
      file,
      `Expected the layers 0, 2, 4, 6 and 7 of an aesthetic head, the last with one output, but received ${keys || "no tensors"}`,
    );
  }
  return [first, ...(outputs as number[])];
}
