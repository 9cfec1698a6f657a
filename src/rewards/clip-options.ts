/** What the options of all rewards with a CLIP have in common. */
import { z } from "zod";
import { placementOptions } from "./placement.js";
import type { NeededModel } from "./reward.js";

/** Spread into the options of a reward with a CLIP `model`. @param processor the default of that option */
export const clipOptions = (processor: string | null) => ({
  processor: z
    .string()
    .min(1)
    .nullable()
    .default(processor)
    .describe(
      "Another CLIP, whose tokenizer, preprocessor and config are used where the model has none of its own. Its weights are neither downloaded nor loaded.",
    ),
  ...placementOptions,
});

/** The models that such options name. */
export const clipModels = ({
  model,
  processor,
}: {
  readonly model: string;
  readonly processor: string | null;
}): (string | NeededModel)[] => [
  model,
  ...(processor === null ? [] : [{ path: processor, purpose: "settings" } as const]),
];
