/** Checks that the parts of a pipeline fit together, which valid parts need not do. */
import { refuse } from "../models/index.js";
import type { Parts } from "./parts.js";

/**
 * @param source what to name in the error: a folder, or a file
 * @throws ModelConfigError with a sentence for each key that disagrees with another part
 */
export function checkFit(parts: Parts, source: string): void {
  const { index, textEncoder, textEncoder2, unet, vae } = parts;
  const problems: string[] = [];
  const { in_channels, out_channels, cross_attention_dim, addition_embed_type } = unet.config;
  const expect = (expected: unknown, why: string, key: string, received: unknown): void => {
    if (expected === received) return;
    problems.push(
      `Expected ${JSON.stringify(expected)}, ${why}, for ${key} of the unet but received ${JSON.stringify(received)}`,
    );
  };
  const latents = vae.config.latent_channels;
  // Inpainting, depth and editing models have extra input channels for their conditioning images.
  expect(latents, "the vae's latent_channels", "in_channels", in_channels);
  expect(latents, "the vae's latent_channels", "out_channels", out_channels);
  const shift = vae.config.shift_factor ?? 0;
  if (shift !== 0) problems.push(`Expected null for shift_factor of the vae but received ${shift}`);
  const second = textEncoder2?.config;
  const features = textEncoder.config.hidden_size + (second?.hidden_size ?? 0);
  for (const dim of new Set([cross_attention_dim].flat())) {
    expect(features, "the width of the text encoders", "cross_attention_dim", dim);
  }
  expect(index.isXL ? "text_time" : null, "as the pipeline class requires", "addition_embed_type", addition_embed_type);
  if (index.isXL && addition_embed_type === "text_time") {
    const { addition_time_embed_dim: sizes, projection_class_embeddings_input_dim: inputs } = unet.config;
    const pooled = second?.projection_dim ?? 0;
    expect(6 * sizes! + pooled, "six sizes and the pooled text", "projection_class_embeddings_input_dim", inputs);
  }
  problems.push(...parts.tokenizer.misfits(textEncoder.config));
  if (second !== undefined) problems.push(...(parts.tokenizer2?.misfits(second) ?? []));
  refuse(source, problems);
}
