/** The config of T5's encoder with transformers' keys: T5, and T5 1.1 with its gated perceptron. */
import { z } from "zod";
import { withoutBookkeeping } from "./bookkeeping.js";
import { layerCount, off, parseConfig, refuse, whole } from "./config.js";

const rate = z.number().min(0).max(1);
const token = z.number().int().nullish();

const schema = z.strictObject({
  vocab_size: whole.default(32128),
  d_model: whole.default(512),
  /** Width of a head; heads times this need not be d_model. */
  d_kv: whole.default(64),
  d_ff: whole.default(2048),
  num_layers: layerCount.default(6),
  num_heads: whole.default(8),
  relative_attention_num_buckets: whole.default(32),
  relative_attention_max_distance: whole.default(128),
  layer_norm_epsilon: z.number().positive().default(1e-6),
  /** "gated-gelu" is T5 1.1's, with GELU by its tanh approximation. */
  feed_forward_proj: z.enum(["relu", "gated-gelu"]).default("relu"),
  /** What follows from feed_forward_proj. */
  dense_act_fn: z.enum(["relu", "gelu_new"]).optional(),
  is_gated_act: z.boolean().optional(),
  /** Scales the standard deviation of fresh weights. */
  initializer_factor: z.number().positive().default(1),
  model_type: z.literal("t5").default("t5"),
  eos_token_id: token,
  pad_token_id: token,
  /** No effect: there is no dropout here. */
  dropout_rate: rate.default(0.1),
  // Of the decoder, of heads, and of text generation.
  num_decoder_layers: z.number().nullish(),
  classifier_dropout: rate.nullish(),
  scale_decoder_outputs: z.boolean().optional(),
  use_cache: z.boolean().optional(),
  output_past: z.boolean().optional(),
  n_positions: z.number().optional(),
  gradient_checkpointing: off(false),
});

export type T5Config = z.output<typeof schema>;

/**
 * @param source what to name in the error: a file, or the model
 * @throws ModelConfigError with a sentence for every key at fault
 */
export function parseT5Config(config: object, source: string): T5Config {
  const parsed = parseConfig(schema, withoutBookkeeping(config), source);
  const { feed_forward_proj: kind, dense_act_fn: activation, is_gated_act: gated } = parsed;
  const { relative_attention_num_buckets: buckets, relative_attention_max_distance: farthest } = parsed;
  const problems: string[] = [];
  const expect = (expected: unknown, key: string, received: unknown): void => {
    if (received === undefined || received === expected) return;
    const value = JSON.stringify(expected);
    problems.push(`Expected ${value}, as in feed_forward_proj, for ${key} but received ${JSON.stringify(received)}`);
  };
  expect(kind === "relu" ? "relu" : "gelu_new", "dense_act_fn", activation);
  expect(kind !== "relu", "is_gated_act", gated);
  if (buckets % 4 !== 0) {
    problems.push(`Expected a multiple of 4 for relative_attention_num_buckets but received ${buckets}`);
  }
  if (farthest <= buckets / 4) {
    const least = `more than ${buckets / 4}, a quarter of the buckets,`;
    problems.push(`Expected ${least} for relative_attention_max_distance but received ${farthest}`);
  }
  refuse(source, problems);
  return parsed;
}
