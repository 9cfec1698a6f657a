/**
 * A CLIP with its tokenizer and preprocessor, for features of images and texts. All rewards and measures that name the
 * same folder share one.
 */
import { clipPreprocess, type PreprocessorConfig } from "../images/index.js";
import type { CLIPModel } from "../models/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import { cat, inference, keep, type Device, type Tensor } from "../torch/index.js";
import { locateClip } from "./clip-files.js";
import { RewardError } from "./error.js";
import type { Place, SharedModel } from "./placement.js";

/** Number of texts whose features are cached: 4 MB for ViT-H-14. */
const TEXTS_KEPT = 1024;

/** How a CLIP is loaded. */
export interface ClipOptions extends Partial<Place> {
  /** A folder with the tokenizer, preprocessor and config that the model lacks. */
  readonly processor?: string | undefined;
}

/** Computes features of images and texts, normalised to length 1. Owns the model: call `dispose`. */
export class Clip implements SharedModel {
  /** The number of features. */
  readonly features: number;
  /** exp(logit_scale): the inverse temperature of training, 100 for most published CLIPs. */
  readonly logitScale: number;
  readonly #tokenizer: CLIPTokenizer;
  readonly #preprocessor: PreprocessorConfig;
  readonly #model: CLIPModel;
  readonly #dtype: Place["dtype"];
  #device: Device;
  /** [1, D] each, least recently used first. */
  readonly #texts = new Map<string, Tensor>();

  private constructor(
    model: CLIPModel,
    {
      tokenizer,
      preprocessor,
      logitScale,
    }: Pick<Clip, "logitScale"> & {
      readonly tokenizer: CLIPTokenizer;
      readonly preprocessor: PreprocessorConfig;
    },
    { device, dtype }: Place,
  ) {
    this.features = model.config.projection_dim;
    this.logitScale = logitScale;
    this.#tokenizer = tokenizer;
    this.#preprocessor = preprocessor;
    this.#model = model;
    this.#dtype = dtype;
    this.#device = device;
  }

  /**
   * Loads a CLIP.
   *
   * @param path a folder in transformers' or OpenCLIP's layout, or a safetensors file, see clip-files.ts
   * @param options `dtype` is that of weights and arithmetic; features are float32 whatever it is
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  static fromPretrained(path: string, { device = "cpu", dtype = "float32", processor }: ClipOptions = {}): Clip {
    // The weights last, so that other problems of the folder show before memory is allocated.
    const files = locateClip(path, processor);
    const tokenizer = CLIPTokenizer.fromPretrained(files.tokenizer);
    const misfits = tokenizer.misfits(files.config.text_config);
    if (misfits.length > 0) throw new RewardError(`${path}: ${misfits.join("\n  ")}`);
    const place = { device, dtype };
    return new Clip(files.load(place), { ...files, tokenizer }, place);
  }

  /** Where it computes. */
  get device(): Device {
    return this.#device;
  }

  /** [B, 3, H, W] in 0..1 to float32 [B, D], rows of length 1, on `device`; without gradient. */
  imageFeatures(images: Tensor): Tensor {
    return inference(() => {
      const pixels = clipPreprocess(images.to({ device: this.device }), this.#preprocessor);
      return unit(this.#model.getImageFeatures(pixels.to({ dtype: this.#dtype })));
    });
  }

  /** float32 [B, D], rows of length 1, on `device`; without gradient. Features of recently used texts are cached. */
  textFeatures(texts: readonly string[]): Tensor {
    return inference(() => {
      const unique = [...new Set(texts)];
      const rows = new Map(unique.map((text) => [text, this.#text(text)] as const));
      const features = cat(texts.map((text) => rows.get(text)!));
      this.#forget(unique.length);
      return features;
    });
  }

  /** Moves the model and the cached features. @throws TorchError where the device has no memory for them */
  moveTo(device: Device): void {
    this.#model.to_(device);
    for (const text of this.#texts.values()) text.moveTo_(device);
    this.#device = device;
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

/** Rows of length 1, in float32. */
function unit(features: Tensor): Tensor {
  const whole = features.to({ dtype: "float32" });
  return whole.div(whole.norm({ dim: -1, keepdim: true }));
}
