/** Checks that the parts of Stable Diffusion 3 fit together, which valid parts need not do. */
import { refuse } from "../models/index.js";
import type { SD3Parts } from "./sd3-parts.js";

/**
 * @param source what to name in the error: a folder
 * @throws ModelConfigError with a sentence for each key that disagrees with another part
 */
export function checkSD3Fit({ clips, t5, transformer, vae }: SD3Parts, source: string): void {
  const { config } = transformer;
  const { joint_attention_dim: width, pooled_projection_dim: pooled, patch_size: patch, sample_size: side } = config;
  const problems: string[] = [];
  const unless = (fine: boolean, expected: string, key: string, received: unknown): void => {
    if (!fine) problems.push(`Expected ${expected}, for ${key} but received ${JSON.stringify(received)}`);
  };
  const latents = vae.config.latent_channels;
  const out = config.out_channels ?? config.in_channels;
  unless(
    config.in_channels === latents,
    `${latents}, the vae's latent_channels`,
    "in_channels of the transformer",
    config.in_channels,
  );
  unless(out === latents, `${latents}, the vae's latent_channels`, "out_channels of the transformer", out);
  unless(side % patch === 0, `a multiple of ${patch}, the patch_size`, "sample_size of the transformer", side);

  const present = clips.flatMap((clip) => clip ?? []);
  const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
  const projected = sum(present.map(({ encoder }) => encoder.config.projection_dim));
  const whole = present.length === clips.length;
  unless(
    whole ? projected === pooled : projected <= pooled,
    `${whole ? "" : "at least "}${projected}, the pooled text of CLIP`,
    "pooled_projection_dim of the transformer",
    pooled,
  );
  // An absent CLIP in front leaves as much room as its pooled text would take.
  const room = clips[0] === undefined && !whole && present.length > 0 ? pooled - projected : 0;
  const features = room + sum(present.map(({ encoder }) => encoder.config.hidden_size));
  unless(
    features <= width,
    `at least ${features}, the states of CLIP side by side`,
    "joint_attention_dim of the transformer",
    width,
  );
  for (const { tokenizer, encoder } of present) problems.push(...tokenizer.misfits(encoder.config));
  const [first, second] = present.map(({ tokenizer }) => tokenizer.modelMaxLength);
  unless(
    second === undefined || first === second,
    `${first}, as that of the first tokenizer`,
    "model_max_length of the second",
    second,
  );
  if (t5 !== undefined) {
    const { d_model: states, vocab_size: words } = t5.encoder.config;
    const { lastId, padTokenId } = t5.tokenizer;
    unless(states === width, `${states}, T5's d_model`, "joint_attention_dim of the transformer", width);
    unless(lastId < words, `at most ${words - 1}, the last id of T5`, "ids of the third tokenizer", lastId);
    unless(padTokenId !== undefined, "a token, as texts are padded", "pad_token of the third tokenizer", null);
  }
  refuse(source, problems);
}
