/**
 * What Stable Diffusion's UNet is conditioned on, with classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598)
 * as one batch: the rows with their negative prompts, then the same rows with their own.
 */
import type { TextKeyValues } from "../models/index.js";
import type { Tensor } from "../torch/index.js";
import type { Conditioning, GuidanceOptions } from "./diffusion-model.js";
import { catPrompts, expandPrompts, type PromptEmbeds } from "./prompt-embeds.js";

/** The states of Stable Diffusion's prompts. A type and not an interface: those have no index signature. */
export type TextStates = {
  /** [B, 77, D] */
  readonly hiddenStates: Tensor;
  /** SDXL only: [B, P] */
  readonly pooled?: Tensor;
  /** SDXL only, where the sizes are not to be the image's own: [B, 6], see AddedConditions. */
  readonly timeIds?: Tensor;
};

export type TextEmbeds = PromptEmbeds<TextStates>;

export interface TextGuidance extends GuidanceOptions {
  readonly negative?: TextEmbeds | undefined;
}

/** B rows, or 2B where they are guided. */
export interface TextConditioning extends Conditioning {
  /** 1 where there is no guidance. */
  readonly guidanceScale: number;
  /** [B or 2B, 77, D]; or what the UNet's attention makes of it, without gradient. */
  readonly text: Tensor | TextKeyValues;
  readonly pooled: Tensor | undefined;
  readonly timeIds: Tensor | undefined;
}

/**
 * @param embeds one prompt a row of the batch, or one for all
 * @throws TypeError for guidance without negative prompts
 */
export function conditionOn(
  embeds: TextEmbeds,
  batch: number,
  { guidanceScale = 1, negative }: TextGuidance,
): TextConditioning & { readonly text: Tensor } {
  const own = expandPrompts(embeds, batch);
  const isGuided = guidanceScale > 1;
  if (isGuided && negative === undefined) {
    throw new TypeError(`Expected negative prompts for guidanceScale ${guidanceScale} but received none`);
  }
  const { states } = isGuided ? catPrompts([expandPrompts(negative!, batch), own]) : own;
  const { hiddenStates: text, pooled, timeIds } = states;
  const dispose = (): void => [text, pooled, timeIds].forEach((x) => x?.dispose());
  return { guidanceScale: isGuided ? guidanceScale : 1, text, pooled, timeIds, dispose };
}
