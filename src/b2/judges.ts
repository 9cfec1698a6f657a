/** What images are judged by: the reward, CLIP's image features for diversity, and the embedded world's truth. */
import { clipPreprocess, readPreprocessorConfig } from "../images/index.js";
import { CLIPModel } from "../models/index.js";
import { loadReward, type Reward } from "../rewards/index.js";
import { type Device, type Tensor, tidy } from "../torch/index.js";
import { parseCaption, SceneClassifier } from "../world/index.js";
import type { Config } from "./config.js";
import { InputError } from "../base/errors.js";
import { resolveModelFolder } from "./model-folder.js";
import { readPromptLists } from "./prompts.js";

export interface Judges {
  readonly reward: Reward;
  /** [B, 3, H, W] in 0..1 to [B, D] */
  readonly features?: (images: Tensor) => Tensor;
  /** Whether each image shows what its prompt says. */
  readonly truth?: (
    images: Tensor,
    prompts: readonly string[],
  ) => readonly (boolean | number)[] | Promise<readonly (boolean | number)[]>;
}

/**
 * The reward that a config names.
 *
 * @throws InputError when there is none of that name, or no model
 */
export async function openReward({ reward, model }: Config): Promise<Reward> {
  const clip = /^clip:(.+)$/.exec(reward.name)?.[1];
  return loadReward({
    name: clip === undefined ? reward.name : `clip:${resolveModelFolder(clip)}`,
    model: reward.name === "clip-score" ? resolveModelFolder(reward.model) : reward.model,
    device: model.device as Device,
  });
}

/**
 * Everything that `eval` asks for.
 *
 * @param reward overrides the config's
 * @throws InputError for models that are not there, and for a truth that does not know the prompts
 */
export async function openJudges(config: Config, reward?: Reward): Promise<Judges> {
  const { clip, truth } = config.eval;
  return {
    reward: reward ?? (await openReward(config)),
    ...(clip === null ? {} : { features: clipFeatures(resolveModelFolder(clip), config.model.device as Device) }),
    ...(truth === "emoji" ? { truth: emojiTruth(config) } : {}),
  };
}

function clipFeatures(folder: string, device: Device): (images: Tensor) => Tensor {
  const imageSize = CLIPModel.readConfig(folder).vision_config.image_size;
  const preprocessor = readPreprocessorConfig(folder, { imageSize });
  const model = CLIPModel.fromPretrained(folder, { device });
  return (images) => tidy(() => model.getImageFeatures(clipPreprocess(images.to({ device }), preprocessor)));
}

function emojiTruth(config: Config): NonNullable<Judges["truth"]> {
  const lists = readPromptLists(config);
  const stranger = [...lists.training, ...(lists["held-out"] ?? [])].find(
    (prompt) => parseCaption(prompt) === undefined,
  );
  if (stranger !== undefined) {
    throw new InputError(
      `Expected prompts of the embedded world for eval.truth "emoji" but received "${stranger}"; set eval.truth to "none"`,
    );
  }
  const classifier = SceneClassifier.fromPretrained(resolveModelFolder("models/emoji-classifier"));
  return (images, prompts) => tidy(() => classifier.trueAlignment(images.to({ device: "cpu" }), prompts));
}
