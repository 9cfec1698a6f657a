/**
 * A CLIP with its tokenizer and preprocessor, for features of images and texts. All rewards and measures that name the
 * same folder share one.
 */
import { clipPreprocess, readPreprocessorConfig, type PreprocessorConfig } from "../images/index.js";
import { CLIPModel } from "../models/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import { cat, inference, keep, type Device, type Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";
import type { Placement, SharedModel } from "./reward.js";

/** Number of texts whose features are cached: 4 MB for ViT-H-14. */
const TEXTS_KEPT = 1024;

/** Computes features of images and texts, normalised to length 1. Owns the model: call `dispose`. */
export class Clip implements SharedModel {
  readonly device: Device;
  readonly #tokenizer: CLIPTokenizer;
  readonly #preprocessor: PreprocessorConfig;
  readonly #model: CLIPModel;
  /** [1, D] each, least recently used first. */
  readonly #texts = new Map<string, Tensor>();

  private constructor(tokenizer: CLIPTokenizer, preprocessor: PreprocessorConfig, model: CLIPModel, device: Device) {
    this.#tokenizer = tokenizer;
    this.#preprocessor = preprocessor;
    this.#model = model;
    this.device = device;
  }

  /**
   * Loads a CLIP.
   *
   * @param folder in transformers' layout: CLIPModel, tokenizer and preprocessor
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  static fromPretrained(
    folder: string,
    { device = "cpu", dtype = "float32" }: { device?: Device; dtype?: Placement["dtype"] } = {},
  ): Clip {
    // The model last, so that other problems of the folder show before memory is allocated.
    const tokenizer = CLIPTokenizer.fromPretrained(folder);
    const imageSize = CLIPModel.readConfig(folder).vision_config.image_size;
    const preprocessor = readPreprocessorConfig(folder, { imageSize });
    const model = CLIPModel.fromPretrained(folder, { device, dtype });
    const misfits = tokenizer.misfits(model.config.text_config);
    if (misfits.length > 0) {
      model.dispose();
      throw new RewardError(`${folder}: ${misfits.join("\n  ")}`);
    }
    return new Clip(tokenizer, preprocessor, model, device);
  }

  /** [B, 3, H, W] in 0..1 to [B, D], rows of length 1; without gradient. */
  imageFeatures(images: Tensor): Tensor {
    return inference(() => {
      const pixels = clipPreprocess(images.to({ device: this.device }), this.#preprocessor);
      return unit(this.#model.getImageFeatures(pixels));
    });
  }

  /** [B, D], rows of length 1; without gradient. Features of recently used texts are cached. */
  textFeatures(texts: readonly string[]): Tensor {
    return inference(() => {
      const unique = [...new Set(texts)];
      const rows = new Map(unique.map((text) => [text, this.#text(text)] as const));
      const features = cat(texts.map((text) => rows.get(text)!));
      this.#forget(unique.length);
      return features;
    });
  }

  /** Moves the model; the cached features are computed again. */
  moveTo(device: Device): void {
    throw new Error(`Expected a CLIP that can move to ${device} but moving is not written yet`);
  }

  /** Frees the model and the cached features. */
  dispose(): void {
    for (const text of this.#texts.values()) text.dispose();
    this.#texts.clear();
    this.#model.dispose();
  }

  /** Encodes one text at a time, because the last bits would depend on the batch, and resumed runs would diverge. */
  #text(text: string): Tensor {
    const known = this.#texts.get(text);
    this.#texts.delete(text);
    const features =
      known ?? keep(unit(this.#model.getTextFeatures(this.#tokenizer.encodeBatch([text]).to({ device: this.device }))));
    this.#texts.set(text, features);
    return features;
  }

  /** Drops the least recently used texts, but never the `used` of the current call. */
  #forget(used: number): void {
    for (const [text, features] of this.#texts) {
      if (this.#texts.size <= Math.max(TEXTS_KEPT, used)) return;
      this.#texts.delete(text);
      features.dispose();
    }
  }
}

/** Rows of length 1. */
function unit(features: Tensor): Tensor {
  return features.div(features.norm({ dim: -1, keepdim: true }));
}
