/**
 * A CLIP with its tokenizer and preprocessor: features of images and texts, of length 1. One serves every reward and
 * measure that names its folder.
 */
import { clipPreprocess, readPreprocessorConfig, type PreprocessorConfig } from "../images/index.js";
import { CLIPModel } from "../models/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import { cat, inference, keep, type Device, type Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";

/** Texts whose features are kept: 4 MB of those of ViT-H-14. */
const TEXTS_KEPT = 1024;

export class Clip {
  readonly device: Device;
  readonly #tokenizer: CLIPTokenizer;
  readonly #preprocessor: PreprocessorConfig;
  readonly #model: CLIPModel;
  /** [1, D] each, in the order of their last use. */
  readonly #texts = new Map<string, Tensor>();

  private constructor(tokenizer: CLIPTokenizer, preprocessor: PreprocessorConfig, model: CLIPModel, device: Device) {
    this.#tokenizer = tokenizer;
    this.#preprocessor = preprocessor;
    this.#model = model;
    this.device = device;
  }

  /**
   * @param folder in transformers' layout: CLIPModel, tokenizer and preprocessor
   * @throws InputError naming the file, and each key of it that is at fault; nothing stays in memory then
   */
  static fromPretrained(folder: string, { device = "cpu" }: { device?: Device } = {}): Clip {
    // The model last: what else is wrong with the folder shows before memory is taken.
    const tokenizer = CLIPTokenizer.fromPretrained(folder);
    const imageSize = CLIPModel.readConfig(folder).vision_config.image_size;
    const preprocessor = readPreprocessorConfig(folder, { imageSize });
    const model = CLIPModel.fromPretrained(folder, { device });
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

  /** [B, D], rows of length 1; without gradient. A text is encoded once, as long as it is not long out of use. */
  textFeatures(texts: readonly string[]): Tensor {
    return inference(() => {
      const unique = [...new Set(texts)];
      const rows = new Map(unique.map((text) => [text, this.#text(text)] as const));
      const features = cat(texts.map((text) => rows.get(text)!));
      this.#forget(unique.length);
      return features;
    });
  }

  dispose(): void {
    for (const text of this.#texts.values()) text.dispose();
    this.#texts.clear();
    this.#model.dispose();
  }

  /** One at a time: its features must not depend, in the last bit, on which others are new with it (resumed runs). */
  #text(text: string): Tensor {
    const known = this.#texts.get(text);
    this.#texts.delete(text);
    const features =
      known ?? keep(unit(this.#model.getTextFeatures(this.#tokenizer.encodeBatch([text]).to({ device: this.device }))));
    this.#texts.set(text, features);
    return features;
  }

  /** Drops the texts that are longest out of use, but none of the last `used`. */
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
