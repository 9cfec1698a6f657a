/**
 * The text of Stable Diffusion 3 from its three encoders. States: the penultimate ones of both CLIPs side by side,
 * padded to the width of T5's, then those of T5. Pooled: both projected texts side by side.
 *
 * What an absent encoder would give is zeros: for T5 as many tokens as CLIP's, as in diffusers; for a CLIP as many
 * features as its pooled text has, which for both of Stable Diffusion 3 is the width of its states.
 */
import { cat, pad, zeros, type Device, type DType, type Tensor } from "../torch/index.js";
import type { TextEmbeds } from "./conditioning.js";
import { promptEmbeds } from "./prompt-embeds.js";
import type { SD3Parts } from "./sd3-parts.js";

/** Tokens of CLIP, where there is no tokenizer to say it. */
export const CLIP_TOKENS = 77;

export interface TextEncoding {
  readonly dtype: DType;
  readonly device: Device;
  /** Tokens of T5. */
  readonly maxSequenceLength: number;
}

/** Encodes prompts, a row each: states [B, 77 + T5's tokens, D] and pooled [B, P]. */
export function encodeText(
  { clips, t5, transformer }: Pick<SD3Parts, "clips" | "t5"> & { transformer: Pick<SD3Parts["transformer"], "config"> },
  prompts: readonly string[],
  { dtype, device, maxSequenceLength }: TextEncoding,
): TextEmbeds {
  const { joint_attention_dim: width, pooled_projection_dim: pooledWidth } = transformer.config;
  const rows = prompts.length;
  const present = clips.flatMap((clip) => clip ?? []);
  const tokens = present[0]?.tokenizer.modelMaxLength ?? CLIP_TOKENS;
  const blank = (...shape: number[]): Tensor => zeros([rows, ...shape], { dtype, device });
  const texts = present.map(({ tokenizer, encoder }) =>
    encoder.model.forward(tokenizer.encodeBatch(prompts).to({ device }), { dtype }),
  );
  const [only] = texts;
  const before = clips[0] === undefined && only !== undefined ? pooledWidth - only.textEmbeds.size(-1) : 0;
  const besides = (parts: readonly Tensor[], to: number): Tensor => {
    const joined = cat(parts, -1);
    return pad(joined, [before, to - before - joined.size(-1)]);
  };
  const states = texts.map(({ penultimateHiddenState }) => penultimateHiddenState);
  const clip = states.length === 0 ? blank(tokens, width) : besides(states, width);
  const embeds = texts.map(({ textEmbeds }) => textEmbeds);
  const pooled = embeds.length === 0 ? blank(pooledWidth) : besides(embeds, pooledWidth);
  const ids = t5?.tokenizer.encodeBatch(prompts, maxSequenceLength).to({ device });
  const long = ids === undefined ? blank(tokens, width) : t5!.encoder.model.forward(ids, { dtype }).to({ dtype });
  return promptEmbeds({ hiddenStates: cat([clip, long], 1), pooled });
}
