/**
 * Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) as one batch of the UNet: the rows with their
 * negative prompts, then the same rows with their own.
 */
import type { TextKeyValues } from "../models/index.js";
import type { Tensor } from "../torch/index.js";
import { catPrompts, expandPrompts, type PromptEmbeds } from "./prompt-embeds.js";

export interface GuidanceOptions {
  /** Above 1: prediction + (scale - 1) (prediction - that for `negative`). Up to 1: the plain prediction. Default 1. */
  readonly guidanceScale?: number;
  /** A prompt for each row, or one for all; required when guided. */
  readonly negative?: PromptEmbeds;
}

/** The prompts of a batch as the UNet takes them: B rows, or 2B where they are guided. */
export interface GuidedPrompts {
  /** 1 where there is no guidance. */
  readonly guidanceScale: number;
  /** [B or 2B, 77, D], or what the UNet's attention makes of it. */
  readonly text: Tensor | TextKeyValues;
  /** SDXL only, see PromptEmbeds. */
  readonly pooled?: Tensor;
  readonly timeIds?: Tensor;
}

/** Guided prompts whose keys and values are there for many steps, see StableDiffusionPipeline.prepare. */
export interface PreparedPrompts extends GuidedPrompts {
  readonly text: TextKeyValues;
  dispose(): void;
}

export const isPrepared = (prompts: PromptEmbeds | PreparedPrompts): prompts is PreparedPrompts => "text" in prompts;

/**
 * @param embeds one prompt a row of the batch, or one for all
 * @throws TypeError for guidance without negative prompts
 */
export function guide(
  embeds: PromptEmbeds,
  batch: number,
  { guidanceScale = 1, negative }: GuidanceOptions,
): GuidedPrompts & { readonly text: Tensor } {
  const own = expandPrompts(embeds, batch);
  if (!(guidanceScale > 1)) return { ...statesOf(own), guidanceScale: 1 };
  if (negative === undefined) {
    throw new TypeError(`Expected negative prompts for guidanceScale ${guidanceScale} but received none`);
  }
  return { ...statesOf(catPrompts([expandPrompts(negative, batch), own])), guidanceScale };
}

function statesOf({ hiddenStates, pooled, timeIds }: PromptEmbeds): Omit<GuidedPrompts, "guidanceScale"> & {
  readonly text: Tensor;
} {
  return { text: hiddenStates, ...(pooled && { pooled }), ...(timeIds && { timeIds }) };
}
