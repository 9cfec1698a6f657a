/**
 * Matches the tokens of two texts by the cosine of their states in a layer of RoBERTa or DeBERTa: the costly part of
 * BERTScore. Of the model only the layers up to that one are loaded.
 *
 * Texts are tokenised as by the bert-score package with `use_fast_tokenizer=True`, as B2-DiffuRL's reward server has it. By
 * default the package puts a blank in front of a text for RoBERTa.
 */
import { join } from "node:path";
import { readJsonObject } from "../base/files.js";
import { show } from "../base/show.js";
import {
  DebertaModel,
  loadModel,
  RobertaModel,
  weightFiles,
  type DebertaConfig,
  type ModelClass,
  type RobertaConfig,
} from "../models/index.js";
import { JsonTokenizer } from "../tokenizer/index.js";
import { cat, inference, keep, tensor, type Device, type Tensor } from "../torch/index.js";
import type { MatchedTexts } from "./bert-score-of.js";
import { RewardError } from "./error.js";
import type { Place, SharedModel } from "./placement.js";

/** Number of tokens whose states are cached: 64 MB for DeBERTa-xlarge. */
const TOKENS_KEPT = 16_384;

/** A text's tokens. */
interface EncodedText {
  readonly ids: readonly number[];
  /** float32 [N, hidden], rows of length 1 */
  readonly states: Tensor;
}

/** How a model is loaded. `dtype` is that of weights and arithmetic; cosines are float32 whatever it is. */
export interface TokenMatcherOptions extends Partial<Place> {
  /** The layer whose output is compared, from 1; 0 is the embeddings. */
  readonly layer: number;
}

/** See the top of this file. Owns the model: call `dispose`. */
export class TokenMatcher implements SharedModel {
  readonly #tokenizer: JsonTokenizer;
  readonly #model: RobertaModel | DebertaModel;
  readonly #layer: number;
  #device: Device;
  /** Least recently used first. */
  readonly #texts = new Map<string, EncodedText>();

  private constructor(
    tokenizer: JsonTokenizer,
    model: RobertaModel | DebertaModel,
    { layer, device = "cpu" }: TokenMatcherOptions,
  ) {
    this.#tokenizer = tokenizer;
    this.#model = model;
    this.#layer = layer;
    this.#device = device;
  }

  /**
   * Loads an encoder and its tokenizer.
   *
   * @param folder in transformers' layout: config.json, model.safetensors and tokenizer.json
   * @throws InputError naming the file and every key at fault; nothing stays in memory then
   */
  static fromPretrained(folder: string, options: TokenMatcherOptions): TokenMatcher {
    // The model last, so that other problems of the folder show before memory is allocated.
    const tokenizer = JsonTokenizer.fromPretrained(folder);
    const source = join(folder, "config.json");
    const config = readJsonObject(source, RewardError);
    const from = { folder, source, config, tokenizer };
    switch (config["model_type"]) {
      case "roberta":
        return new TokenMatcher(tokenizer, loadLayers(RobertaModel, from, options), options);
      case "deberta":
        return new TokenMatcher(tokenizer, loadLayers(DebertaModel, from, options), options);
      default: {
        const received = show(config["model_type"]);
        throw new RewardError(`${source}: Expected roberta or deberta for model_type but received ${received}`);
      }
    }
  }

  /** The ids of the special tokens around every text. */
  get specialIds(): readonly number[] {
    return this.#tokenizer.specialIds;
  }

  /** The ids of a text, special ones included. The tail of a text that is longer than the model allows is cut off. */
  ids(text: string): number[] {
    const { modelMaxLength = Infinity } = this.#tokenizer;
    return this.#tokenizer.encode(text.trim(), Math.min(modelMaxLength, this.#model.maxLength));
  }

  /** Matches each token of either text with the most similar one of the other. */
  match(candidate: string, reference: string): MatchedTexts {
    const matched = inference(() => {
      const [one, other] = [this.#encode(candidate), this.#encode(reference)];
      const cosines = one.states.matmul(other.states.transpose(0, 1)); // [N, M]
      const best = cat([cosines.amax({ dim: 1 }), cosines.amax({ dim: 0 })]).toArray();
      const side = (ids: readonly number[], cosinesOfIt: readonly number[]) => ({
        ids,
        best: cosinesOfIt,
        isEmpty: ids.length <= this.specialIds.length,
      });
      return {
        candidate: side(one.ids, best.slice(0, one.ids.length)),
        reference: side(other.ids, best.slice(one.ids.length)),
      };
    });
    this.#forget();
    return matched;
  }

  /** Moves the model and the cached states. @throws TorchError where the device has no memory for them */
  moveTo(device: Device): void {
    this.#model.to_(device);
    for (const { states } of this.#texts.values()) states.moveTo_(device);
    this.#device = device;
  }

  /** Frees the model and the cached states. */
  dispose(): void {
    for (const { states } of this.#texts.values()) states.dispose();
    this.#texts.clear();
    this.#model.dispose();
  }

  /** Encodes one text at a time, because the last bits would depend on the batch, and resumed runs would diverge. */
  #encode(text: string): EncodedText {
    const known = this.#texts.get(text);
    this.#texts.delete(text);
    const encoded = known ?? this.#compute(this.ids(text));
    this.#texts.set(text, encoded);
    return encoded;
  }

  #compute(ids: readonly number[]): EncodedText {
    const inputIds = tensor([ids], { dtype: "int64", device: this.#device });
    const states = this.#model.forward(inputIds, { layers: this.#layer }).at(-1)!;
    const rows = states.squeeze(0).to({ dtype: "float32" }); // [N, hidden]
    return { ids, states: keep(rows.div(rows.norm({ dim: -1, keepdim: true }))) };
  }

  /** Drops the least recently used texts. */
  #forget(): void {
    let tokens = [...this.#texts.values()].reduce((sum, { ids }) => sum + ids.length, 0);
    for (const [text, { ids, states }] of this.#texts) {
      if (tokens <= TOKENS_KEPT) return;
      this.#texts.delete(text);
      states.dispose();
      tokens -= ids.length;
    }
  }
}

/** The layers of an encoder up to one. */
function loadLayers<Config extends RobertaConfig | DebertaConfig, Model>(
  modelClass: ModelClass<Config, object, Model>,
  from: {
    readonly folder: string;
    readonly source: string;
    readonly config: object;
    readonly tokenizer: JsonTokenizer;
  },
  { layer, device = "cpu", dtype = "float32" }: TokenMatcherOptions,
): Model {
  const { folder, source, config, tokenizer } = from;
  const { num_hidden_layers: depth, vocab_size: words } = modelClass.layout.parseConfig(config, source);
  if (layer > depth) {
    throw new RewardError(`${source}: Expected at most num_hidden_layers, ${depth}, for layer but received ${layer}`);
  }
  if (tokenizer.lastId >= words) {
    const expected = `Expected ids of the tokenizer below vocab_size, ${words},`;
    throw new RewardError(`${source}: ${expected} but received up to ${tokenizer.lastId}`);
  }
  const kept = Math.max(1, layer); // An encoder has a layer, if not one that is asked for.
  const behind = Array.from({ length: depth - kept }, (_, i) => new RegExp(`(^|\\.)encoder\\.layer\\.${kept + i}\\.`));
  return loadModel(
    modelClass,
    { config: { ...config, num_hidden_layers: kept }, source, files: weightFiles(folder, "model"), ignore: behind },
    { device, dtype },
  );
}
