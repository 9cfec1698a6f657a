/**
 * The conditioning of Stable Diffusion's denoisers. Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) is
 * one batch: all rows with their negative prompts, then the same rows with their own.
 */
import type { TextKeyValues } from "../models/index.js";
import { cat, type Tensor } from "../torch/index.js";
import type { Conditioning, GuidanceOptions } from "./diffusion-model.js";
import { catPrompts, expandPrompts, type PromptEmbeds } from "./prompt-embeds.js";

/** Encoded prompts of Stable Diffusion. A type rather than an interface, because it needs an index signature. */
export type TextStates = {
  /** [B, 77, D]; Stable Diffusion 3 has T5's tokens after CLIP's 77. */
  readonly hiddenStates: Tensor;
  /** SDXL and Stable Diffusion 3: [B, P] */
  readonly pooled?: Tensor;
  /** SDXL only, to replace the image's own sizes: [B, 6], see AddedConditions. */
  readonly timeIds?: Tensor;
};

export type TextEmbeds = PromptEmbeds<TextStates>;

export interface TextGuidance extends GuidanceOptions {
  readonly negative?: TextEmbeds | undefined;
}

/** B rows, or 2B with guidance. */
export interface TextConditioning extends Conditioning {
  /** 1 without guidance. */
  readonly guidanceScale: number;
  /** [B or 2B, 77 or more, D]; or the UNet's precomputed attention keys and values, without gradient. */
  readonly text: Tensor | TextKeyValues;
  readonly pooled: Tensor | undefined;
  readonly timeIds: Tensor | undefined;
}

/**
 * @param embeds one prompt per row of the batch, or one for all
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

/**
 * A prediction with guidance, whose two passes are one batch.
 *
 * @param guidanceScale 1 for a plain prediction
 * @param predict float32 predictions of the rows that it gets, B or 2B
 */
export function predictGuided(
  x: Tensor,
  timesteps: number | readonly number[],
  guidanceScale: number,
  predict: (x: Tensor, timesteps: number | readonly number[]) => Tensor,
): Tensor {
  if (guidanceScale === 1) return predict(x, timesteps);
  const twice = typeof timesteps === "number" ? timesteps : [...timesteps, ...timesteps];
  const [without, withText] = predict(cat([x, x]), twice).chunk(2) as [Tensor, Tensor];
  return without.add(withText.sub(without).mul(guidanceScale));
}
