/** The parts of Stable Diffusion 3, one for each subfolder of a diffusers folder. */
import type {
  AutoencoderKL,
  CLIPTextModelWithProjection,
  PretrainedModel,
  SD3Transformer2DModel,
  T5EncoderModel,
} from "../models/index.js";
import type { Scheduler } from "../schedulers/index.js";
import type { CLIPTokenizer, JsonTokenizer } from "../tokenizer/index.js";
import type { Loadable } from "./loadable.js";

/** A text encoder with its tokenizer. */
export interface TextPart<Tokenizer, Encoder extends PretrainedModel<object>> {
  readonly tokenizer: Tokenizer;
  readonly encoder: Loadable<Encoder>;
}

export type ClipPart = TextPart<CLIPTokenizer, CLIPTextModelWithProjection>;
export type T5Part = TextPart<JsonTokenizer, T5EncoderModel>;

export interface SD3Parts {
  /** `text_encoder` and `text_encoder_2`, where the folder has them. */
  readonly clips: readonly [ClipPart | undefined, ClipPart | undefined];
  /** `text_encoder_3`, where the folder has it. */
  readonly t5: T5Part | undefined;
  readonly transformer: Loadable<SD3Transformer2DModel>;
  readonly vae: AutoencoderKL;
  readonly scheduler: Scheduler;
}

/** The text encoders by what follows `text_encoder` in their folders' names. */
export const textParts = ({ clips, t5 }: Pick<SD3Parts, "clips" | "t5">) =>
  [
    ["", clips[0]],
    ["_2", clips[1]],
    ["_3", t5],
  ] as const;

/** The text encoders that a model has. */
export const textEncoders = (parts: Pick<SD3Parts, "clips" | "t5">): Loadable<PretrainedModel<object>>[] =>
  textParts(parts).flatMap(([, part]) => part?.encoder ?? []);
