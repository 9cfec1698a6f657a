/**
 * CLIP's byte-level byte-pair encoding (Radford et al. 2021, section 2.4), id for id what transformers' CLIPTokenizer
 * gives: NFC, runs of white space to one blank, lower case, words cut by a pattern, bytes as letters, merges by rank.
 *
 * OpenAI's repair of broken encodings and HTML entities (ftfy, html.unescape) is left out, as in transformers.
 */
import { tensor, type Tensor } from "../torch/index.js";
import { END_OF_WORD, readTokenizerFiles, writeTokenizerFiles, type TokenizerFiles } from "./files.js";
import { mergePairs } from "./merge.js";

/** \s and \p{White_Space} differ in a few characters; the vocabulary was made with the latter. */
const WHITE_SPACE = /\p{White_Space}+/gu;

const WORDS = /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** GPT-2's pattern. After WORDS it only affects special tokens that were written in capitals. */
const WORDS_WITHIN = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]+/gu;

const utf8 = new TextEncoder();

/** Words whose ids are kept: their letters and their number. */
const LONGEST_KEPT = 64;
const MOST_KEPT = 100_000;

/** CLIP's tokenizer, see the top of this file. */
export class CLIPTokenizer {
  readonly bosTokenId: number;
  readonly eosTokenId: number;
  readonly padTokenId: number;
  /** Number of ids per text, including begin and end: 77 for every CLIP. */
  readonly modelMaxLength: number;
  readonly vocabSize: number;

  readonly #files: TokenizerFiles;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #unkTokenId: number;
  readonly #ranks: ReadonlyMap<string, number>;
  readonly #addedTokens: ReadonlyMap<string, number>;
  readonly #addedPattern: RegExp;
  readonly #ofWord = new Map<string, readonly number[]>();

  constructor(files: TokenizerFiles) {
    this.#files = files;
    this.#vocab = files.vocab;
    this.bosTokenId = files.vocab.get(files.bosToken)!;
    this.eosTokenId = files.vocab.get(files.eosToken)!;
    this.padTokenId = files.vocab.get(files.padToken)!;
    this.#unkTokenId = files.vocab.get(files.unkToken)!;
    this.modelMaxLength = files.modelMaxLength;
    this.vocabSize = files.vocab.size;
    this.#ranks = new Map(files.merges.map(([left, right], rank) => [`${left} ${right}`, rank]));
    this.#addedTokens = files.addedTokens;
    const longestFirst = [...files.addedTokens.keys()].sort((a, b) => b.length - a.length);
    this.#addedPattern = new RegExp(
      `(${longestFirst.map((token) => token.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|")})`,
      "u",
    );
  }

  /** @throws TokenizerError naming the file and what it should hold */
  static fromPretrained(folder: string, options: { readonly padToken?: string } = {}): CLIPTokenizer {
    return new CLIPTokenizer(readTokenizerFiles(folder, options));
  }

  /** Writes a folder that fromPretrained and transformers read. */
  savePretrained(folder: string): void {
    writeTokenizerFiles(folder, this.#files);
  }

  /**
   * Why a text encoder of this config cannot embed the ids of this tokenizer: one sentence per reason, empty if it can.
   */
  misfits(encoder: { readonly vocab_size: number; readonly max_position_embeddings: number }): string[] {
    const { vocab_size: words, max_position_embeddings: positions } = encoder;
    const largest = [...this.#vocab.values(), ...this.#addedTokens.values()].reduce((a, b) => Math.max(a, b));
    const expected = (what: string, key: string, received: number) =>
      `Expected ${what} of the text encoder, for ${key} of the tokenizer but received ${received}`;
    return [
      ...(largest < words ? [] : [expected(`at most ${words - 1}, the last id`, "ids", largest)]),
      ...(this.modelMaxLength <= positions
        ? []
        : [expected(`at most ${positions}, the positions`, "model_max_length", this.modelMaxLength)]),
    ];
  }

  /** The ids of a text without begin, end, truncation and padding. */
  tokenize(text: string): number[] {
    if (typeof text !== "string") throw new TypeError(`Expected a string for text but received ${typeof text}`);
    // Splitting by a pattern in parentheses keeps the separators, at odd indices.
    return text
      .split(this.#addedPattern)
      .flatMap((piece, i) => (i % 2 === 1 ? [this.#addedTokens.get(piece)!] : this.#tokenizeText(piece)));
  }

  /** Exactly `modelMaxLength` ids: begin, the text (its tail cut off if too long), end, padding. */
  encode(text: string): number[] {
    const ids = this.tokenize(text).slice(0, this.modelMaxLength - 2);
    const used = [this.bosTokenId, ...ids, this.eosTokenId];
    return [...used, ...Array<number>(this.modelMaxLength - used.length).fill(this.padTokenId)];
  }

  /** The texts' ids as int64 [B, modelMaxLength]. */
  encodeBatch(texts: readonly string[]): Tensor {
    const ids = BigInt64Array.from(texts.flatMap((text) => this.encode(text)).map(BigInt));
    return tensor(ids, { shape: [texts.length, this.modelMaxLength], dtype: "int64" });
  }

  #tokenizeText(text: string): number[] {
    const normal = text.normalize("NFC").replace(WHITE_SPACE, " ");
    // One letter at a time, because JavaScript lowercases a sigma at the end of a word differently.
    const lower = Array.from(normal, (letter) => letter.toLowerCase()).join("");
    const words = (lower.match(WORDS) ?? []).flatMap((word) => word.match(WORDS_WITHIN) ?? []);
    return words.flatMap((word) => this.#tokenizeWord(word));
  }

  #tokenizeWord(word: string): readonly number[] {
    const known = this.#ofWord.get(word);
    if (known !== undefined) return known;
    const letters = Array.from(utf8.encode(word), (byte) => LETTER_OF_BYTE[byte]!);
    letters[letters.length - 1] += END_OF_WORD;
    const rankOf = (left: string, right: string): number => this.#ranks.get(`${left} ${right}`) ?? Infinity;
    const ids = mergePairs(letters, rankOf).map((symbol) => this.#vocab.get(symbol) ?? this.#unkTokenId);
    if (word.length <= LONGEST_KEPT && this.#ofWord.size < MOST_KEPT) this.#ofWord.set(word, ids);
    return ids;
  }
}

/** GPT-2's letters for bytes: printable Latin-1 stands for itself, the other 68 follow from U+0100 on. */
const LETTER_OF_BYTE: readonly string[] = (() => {
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
    return String.fromCharCode(printable ? byte : 0x100 + others++);
  });
})();
