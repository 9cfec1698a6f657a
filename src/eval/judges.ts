/** What images are measured by besides the rewards: CLIP's image features for diversity, and the embedded world's truth. */
import type { Config } from "../b2/config/schema.js";
import type { PromptLists } from "../b2/rollout/prompts.js";
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";
import { resolveModel } from "../hub/index.js";
import type { RewardResources, RewardSet } from "../rewards/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { IMAGE_SIZE, parseCaption, SceneClassifier } from "../world/index.js";

export interface Judges {
  readonly rewards: RewardSet;
  /** [B, 3, H, W] in 0..1 to [B, D], rows of length 1 */
  readonly features?: (images: Tensor) => Tensor;
  /** Whether each image shows what its prompt says. */
  readonly truth?: (
    images: Tensor,
    prompts: readonly string[],
  ) => readonly (boolean | number)[] | Promise<readonly (boolean | number)[]>;
  /** Frees what is not the resources'. */
  dispose?(): void;
}

/** @throws InputError for a truth that does not know the prompts. Looks at the prompts alone. */
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
 * Everything that `eval` asks for.
 *
 * @param rewards stay the caller's
 * @throws InputError for models that are not there
 */
export function openJudges(config: Pick<Config, "eval">, rewards: RewardSet, resources: RewardResources): Judges {
  const { clip, truth } = config.eval;
  const features = clip === null ? undefined : resources.clip(clip);
  const classifier = truth === "emoji" ? openClassifier() : undefined;
  return {
    rewards,
    ...(features && { features: (images) => features.imageFeatures(images) }),
    ...(classifier && {
      truth: (images, prompts) => {
        const [height, width] = images.shape.slice(2);
        if (height !== IMAGE_SIZE || width !== IMAGE_SIZE) {
          throw new InputError(
            `Expected images of ${IMAGE_SIZE}x${IMAGE_SIZE} for eval.truth "emoji" but received ${width}x${height}; set eval.truth to "none"`,
          );
        }
        return tidy(() => classifier.trueAlignment(images.to({ device: "cpu" }), prompts));
      },
    }),
    dispose: () => classifier?.dispose(),
  };
}

const openClassifier = (): SceneClassifier => SceneClassifier.fromPretrained(resolveModel("models/emoji-classifier"));
