/**
 * Keys that transformers writes into every config: settings of text generation, and its own bookkeeping. They do not
 * concern the models here, and are ignored by name.
 */

const BOOKKEEPING = new Set(
  `add_cross_attention architectures bad_words_ids begin_suppress_tokens chunk_size_feed_forward
  cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
  encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
  forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty max_length min_length
  no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states
  output_scores prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict
  return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
  tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers_version
  typical_p use_bfloat16`.split(/\s+/),
);

/** A config without these keys. */
export const withoutBookkeeping = (config: object): object =>
  Object.fromEntries(Object.entries(config).filter(([key]) => !BOOKKEEPING.has(key)));
