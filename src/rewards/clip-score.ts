/**
 * CLIPScore (Hessel et al. 2021, arXiv 2104.08718): the cosine between CLIP's features of image and prompt, unscaled,
 * as the reference of B2-DiffuRL takes it (with ViT-H-14, for which the values lie about 0.2 to 0.4).
 *
 * Images come as tensors and stay on the device; the text of a prompt is encoded once.
 */
import { clipPreprocess, readPreprocessorConfig } from "../images/index.js";
import { CLIPModel } from "../models/index.js";
import { CLIPTokenizer } from "../tokenizer/index.js";
import { breathe, cat, keep, noGrad, tidy, type Device, type DType, type Tensor } from "../torch/index.js";
import { RewardError, type Reward } from "./reward.js";

export interface ClipScoreOptions {
  /** A folder in transformers' layout: CLIPModel, tokenizer and preprocessor. */
  readonly model: string;
  readonly device?: Device;
  readonly dtype?: DType;
  /** Images or texts encoded at a time; bounds memory. Default 64. */
  readonly batchSize?: number;
}

/** @throws an error naming the file, and each key of it that is at fault */
export function clipScore({
  model: folder,
  device = "cpu",
  dtype = "float32",
  batchSize = 64,
}: ClipScoreOptions): Reward {
  // The model last: what else is wrong with the folder shows before memory is taken.
  const tokenizer = CLIPTokenizer.fromPretrained(folder);
  const { text_config: text, vision_config: vision } = CLIPModel.readConfig(folder);
  const preprocessor = readPreprocessorConfig(folder, { imageSize: vision.image_size });
  const misfits = tokenizer.misfits(text);
  if (misfits.length > 0) throw new RewardError(`${folder}: ${misfits.join("\n  ")}`);
  const model = CLIPModel.fromPretrained(folder, { device, dtype });
  const textFeatures = new Map<string, Tensor>(); // [D] each, of length 1

  const encodeTexts = (texts: readonly string[]): Tensor =>
    unit(model.getTextFeatures(tokenizer.encodeBatch(texts).to({ device })).to({ dtype: "float32" }));
  const encodeImages = (images: Tensor): Tensor => {
    const pixels = clipPreprocess(images.to({ device }), preprocessor).to({ dtype });
    return unit(model.getImageFeatures(pixels).to({ dtype: "float32" }));
  };

  return async (images, prompts) => {
    const news = [...new Set(prompts)].filter((prompt) => !textFeatures.has(prompt));
    for (const texts of chunks(news, batchSize)) {
      const rows = tidy(() =>
        noGrad(() =>
          encodeTexts(texts)
            .split(1)
            .map((row) => keep(row.squeeze(0).clone())),
        ),
      );
      texts.forEach((text, i) => textFeatures.set(text, rows[i]!));
      await breathe();
    }
    const scores: number[] = [];
    for (const some of chunks(prompts, batchSize)) {
      const cosines = tidy(() =>
        noGrad(() => {
          const text = cat(some.map((prompt) => textFeatures.get(prompt)!.unsqueeze(0)));
          return encodeImages(images.narrow(0, scores.length, some.length))
            .mul(text)
            .sum({ dim: 1 });
        }),
      );
      scores.push(...cosines.toArray());
      cosines.dispose();
      await breathe();
    }
    return scores;
  };
}

/** Rows of length 1. */
function unit(features: Tensor): Tensor {
  return features.div(features.norm({ dim: -1, keepdim: true }));
}

function chunks<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
