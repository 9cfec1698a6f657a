/** What the embedded world's judge reads off images, slot by slot, for `b2 probe`. */
import type { ReadImages } from "../b2/probe/branching.js";
import { InputError } from "../base/errors.js";
import { resolveModel } from "../hub/index.js";
import { tidy } from "../torch/index.js";
import { IMAGE_SIZE, parseCaption, rightSlots, SceneClassifier, SLOT_NAMES } from "../world/index.js";

/** A judge and the model that it owns. */
export interface SlotJudge {
  /**
   * `alignment`: 1 where everything that the prompt names is there, else 0. `slots.<name>`: the same for one slot, null
   * where the prompt does not have it.
   */
  readonly read: ReadImages;
  dispose(): void;
}

/** Opens the classifier of the embedded world. @throws InputError where it is missing */
export function openSlotJudge(): SlotJudge {
  const classifier = SceneClassifier.fromPretrained(resolveModel("models/emoji-classifier"));
  const read: ReadImages = (images, prompts) => {
    const [height, width] = images.shape.slice(2);
    if (height !== IMAGE_SIZE || width !== IMAGE_SIZE) {
      throw new InputError(
        `Expected images of ${IMAGE_SIZE}x${IMAGE_SIZE} for eval.truth "emoji" but received ${width}x${height}; set eval.truth to "none"`,
      );
    }
    const scenes = tidy(() => classifier.readScenes(images.to({ device: "cpu" })));
    const right = scenes.map((scene, i) => rightSlots(scene, parseCaption(prompts[i]!)!));
    const slots = SLOT_NAMES.map((slot) => {
      return [`slots.${slot}`, right.map((own) => (own.has(slot) ? Number(own.get(slot)) : null))] as const;
    });
    return {
      alignment: right.map((own) => Number([...own.values()].every(Boolean))),
      ...Object.fromEntries(slots),
    };
  };
  return { read, dispose: () => classifier.dispose() };
}
