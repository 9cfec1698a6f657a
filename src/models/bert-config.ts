/** Configs of BERT's descendants RoBERTa and DeBERTa: BERT's keys, and what each adds; with transformers' defaults. */
import { z } from "zod";
import { withoutBookkeeping } from "./bookkeeping.js";
import { layerCount, off, parseConfig, refuse, whole } from "./config.js";

const rate = z.number().min(0).max(1);
const token = z.number().int().nullish();

/** Keys of both: the shape of the encoder. */
const encoder = {
  vocab_size: whole,
  hidden_size: whole.default(768),
  num_hidden_layers: layerCount.default(12),
  num_attention_heads: whole.default(12),
  intermediate_size: whole.default(3072),
  hidden_act: z.enum(["gelu", "gelu_new"]).default("gelu"),
  initializer_range: z.number().positive().default(0.02),
  /** No effect: there is no dropout here. */
  hidden_dropout_prob: rate.default(0.1),
  attention_probs_dropout_prob: rate.default(0.1),
  bos_token_id: token,
  eos_token_id: token,
};

const robertaSchema = z.strictObject({
  ...encoder,
  vocab_size: whole.default(50265),
  layer_norm_eps: z.number().positive().default(1e-12),
  /** Positions are counted from `pad_token_id + 1` on, so that a text has at most that many fewer tokens. */
  max_position_embeddings: whole.default(512),
  type_vocab_size: whole.default(2),
  pad_token_id: z.int().min(0).default(1),
  position_embedding_type: off("absolute"),
  model_type: z.literal("roberta").default("roberta"),
  // Of the heads, and of text generation.
  classifier_dropout: rate.nullish(),
  use_cache: z.boolean().optional(),
});

/** Which terms an attention score has besides content to content: a list, or joined as in "c2p|p2c". */
const positionTerms = z
  .union([z.array(z.string()), z.string().transform((text) => text.split("|"))])
  .pipe(z.array(z.enum(["c2p", "p2c"])));

const debertaSchema = z.strictObject({
  ...encoder,
  vocab_size: whole.default(50265),
  layer_norm_eps: z.number().positive().default(1e-7),
  max_position_embeddings: whole.default(512),
  type_vocab_size: z.int().min(0).default(0),
  pad_token_id: z.int().min(0).default(0),
  /** Encoders without are BERT, and not supported. */
  relative_attention: z.literal(true),
  /** Distances beyond it count as this one; below 1: `max_position_embeddings`. */
  max_relative_positions: z.int().max(4096).default(-1),
  pos_att_type: positionTerms,
  /** Whether the embeddings have positions added, as BERT's have. */
  position_biased_input: z.boolean().default(true),
  embedding_size: whole.optional(),
  talking_head: off(false),
  z_steps: off(0),
  model_type: z.literal("deberta").default("deberta"),
  // Of the heads, and of other implementations.
  padding_idx: token,
  pooler: z.unknown().optional(),
  pooler_dropout: rate.optional(),
  pooler_hidden_act: z.string().optional(),
  pooler_hidden_size: whole.optional(),
  cls_dropout: rate.nullish(),
  legacy: z.boolean().optional(),
});

export type RobertaConfig = z.output<typeof robertaSchema>;
export type DebertaConfig = z.output<typeof debertaSchema>;
export type BertConfig = RobertaConfig | DebertaConfig;

/** @throws ModelConfigError with a sentence for every key at fault */
export function parseRobertaConfig(config: object, source: string): RobertaConfig {
  const parsed = parseConfig(robertaSchema, withoutBookkeeping(config), source);
  const { max_position_embeddings: positions, pad_token_id: padding } = parsed;
  const few = `Expected more than pad_token_id + 3, ${padding + 3}, for max_position_embeddings but received ${positions}`;
  refuse(source, [...headProblems(parsed), ...(positions > padding + 3 ? [] : [few])]);
  return parsed;
}

/** @throws ModelConfigError with a sentence for every key at fault */
export function parseDebertaConfig(config: object, source: string): DebertaConfig {
  const parsed = parseConfig(debertaSchema, withoutBookkeeping(config), source);
  const { embedding_size: embedding, hidden_size: size } = parsed;
  const other = `Expected hidden_size, ${size}, for embedding_size but received ${embedding}`;
  refuse(source, [...headProblems(parsed), ...((embedding ?? size) === size ? [] : [other])]);
  return parsed;
}

function headProblems({ hidden_size: size, num_attention_heads: heads }: BertConfig): string[] {
  if (size % heads === 0) return [];
  return [`Expected a multiple of num_attention_heads, ${heads}, for hidden_size but received ${size}`];
}
