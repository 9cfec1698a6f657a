/**
 * Measures of images besides the rewards: diversity from CLIP's features, true alignment from the world's classifier.
 */
import type { Config } from "../b2/config/schema.js";
import type { PromptLists } from "../b2/rollout/prompts.js";
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";
import { resolveModel } from "../hub/index.js";
import type { RewardResources, RewardSet } from "../rewards/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { IMAGE_SIZE, parseCaption, SceneClassifier } from "../world/index.js";

/** What a judge says of an image. */
export interface Verdict {
  /** Whether the image shows all that its prompt describes. */
  readonly right: boolean;
  /** Part by part of the prompt, such as its animal and its colour, where the judge can tell them apart. */
  readonly slots?: Readonly<Record<string, boolean>>;
}

/** What an evaluation measures images with. */
export interface Judges {
  readonly rewards: RewardSet;
  /** Image features for diversity: [B, 3, H, W] in 0..1 to [B, D], rows of length 1. */
  readonly features?: (images: Tensor) => Tensor;
  /** Whether each image [B, 3, H, W] shows what its prompt describes. */
  readonly truth?: (images: Tensor, prompts: readonly string[]) => readonly Verdict[] | Promise<readonly Verdict[]>;
  /** Runs `work` with all models on their devices. */
  readonly using?: <T>(work: () => Promise<T>) => Promise<T>;
  /** Frees the models that do not belong to the shared resources. */
  dispose?(): void;
}

/** Checks that `eval.truth` can judge the prompts, without loading a model. @throws InputError if not */
export function checkTruth({ eval: { truth } }: Pick<Config, "eval">, lists: PromptLists): void {
  if (truth === "none") return;
  const all = [...lists.training, ...(lists["held-out"] ?? [])];
  const unknown = all.find((prompt) => parseCaption(prompt) === undefined);
  if (unknown === undefined) return;
  throw new InputError(
    `Expected prompts of the embedded world for eval.truth "emoji" but received ${show(unknown)}; set eval.truth to "none"`,
  );
}

/**
 * Opens the models that the `eval` section asks for.
 *
 * @param rewards still owned by the caller
 * @throws InputError for missing models
 */
export function openJudges(config: Pick<Config, "eval">, rewards: RewardSet, resources: RewardResources): Judges {
  const { clip, truth } = config.eval;
  const features = clip === null ? undefined : resources.clip(clip);
  const classifier = truth === "emoji" ? openClassifier() : undefined;
  return {
    rewards,
    using: (work) => resources.using(work),
    ...(features && { features: (images) => features.imageFeatures(images) }),
    ...(classifier && {
      truth: (images, prompts) => {
        const [height, width] = images.shape.slice(2);
        if (height !== IMAGE_SIZE || width !== IMAGE_SIZE) {
          throw new InputError(
            `Expected images of ${IMAGE_SIZE}x${IMAGE_SIZE} for eval.truth "emoji" but received ${width}x${height}; set eval.truth to "none"`,
          );
        }
        const alignment = tidy(() => classifier.slotAlignment(images.to({ device: "cpu" }), prompts));
        return alignment.map((slots) => ({ right: Object.values(slots).every(Boolean), slots }));
      },
    }),
    dispose: () => classifier?.dispose(),
  };
}

const openClassifier = (): SceneClassifier => SceneClassifier.fromPretrained(resolveModel("models/emoji-classifier"));
