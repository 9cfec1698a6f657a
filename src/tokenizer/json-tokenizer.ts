/**
 * A tokenizer of the tokenizers library, whatever its algorithm: `tokenizer.json`, and the length of a text from
 * `tokenizer_config.json`. The package @huggingface/tokenizers reads and applies it; this adds what it leaves out, which is
 * truncation, and errors that name the file.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { readJsonObject } from "../base/files.js";
import { show } from "../base/show.js";
import { TokenizerError } from "./files.js";

/** What is used of the library. Its own types lead nowhere without file extensions, which Node's resolution asks for. */
interface Library {
  readonly Tokenizer: new (json: object, config: object) => Tokenizer;
}
interface Tokenizer {
  encode(
    text: string,
    options: { readonly add_special_tokens: boolean },
  ): { readonly ids: number[]; readonly tokens: readonly string[] };
  get_vocab(withAddedTokens: boolean): ReadonlyMap<string, number>;
}

/** Loaded when it is needed, and at once. */
const loadLibrary = (): Library => createRequire(import.meta.url)("@huggingface/tokenizers") as Library;

/** Any text whose tokens stand out among the special ones. */
const PROBE = "a";

/** A tokenizer.json, see the top of this file. */
export class JsonTokenizer {
  /** Number of ids that a text can have, special tokens included; undefined where the folder does not say. */
  readonly modelMaxLength: number | undefined;
  /** The largest id. */
  readonly lastId: number;

  readonly #file: string;
  readonly #tokenizer: Tokenizer;
  /** The special tokens before and after a text. */
  readonly #before: readonly number[];
  readonly #after: readonly number[];

  private constructor(file: string, tokenizer: Tokenizer, modelMaxLength: number | undefined) {
    this.#file = file;
    this.#tokenizer = tokenizer;
    this.modelMaxLength = modelMaxLength;
    this.lastId = [...tokenizer.get_vocab(true).values()].reduce((a, b) => Math.max(a, b), 0);
    const text = this.tokenize(PROBE);
    const whole = this.#ids(PROBE, true);
    const start = whole.findIndex((_, i) => text.every((id, k) => whole[i + k] === id));
    if (text.length === 0 || start < 0) {
      const expected = `special tokens around the tokens of a text, ${show(text)} for ${show(PROBE)},`;
      throw new TokenizerError(`${file}: Expected ${expected} but received ${show(whole)}`);
    }
    this.#before = whole.slice(0, start);
    this.#after = whole.slice(start + text.length);
  }

  /** @throws TokenizerError naming the file and what it should hold */
  static fromPretrained(folder: string): JsonTokenizer {
    const file = join(folder, "tokenizer.json");
    if (!existsSync(file)) throw new TokenizerError(withoutFile(folder));
    const json = readJsonObject(file, TokenizerError);
    const configFile = join(folder, "tokenizer_config.json");
    const config = existsSync(configFile) ? readJsonObject(configFile, TokenizerError) : {};
    const length = modelMaxLength(config["model_max_length"], configFile);
    const { Tokenizer } = loadLibrary();
    try {
      return new JsonTokenizer(file, new Tokenizer(json, config), length);
    } catch (cause) {
      if (cause instanceof TokenizerError) throw cause;
      const { message } = cause as Error;
      throw new TokenizerError(`${file}: Expected a file of the tokenizers library but reading it failed: ${message}`, {
        cause,
      });
    }
  }

  /** The ids of the special tokens around every text. */
  get specialIds(): readonly number[] {
    return [...this.#before, ...this.#after];
  }

  /** The ids of a text without special tokens and truncation. */
  tokenize(text: string): number[] {
    return this.#ids(text, false);
  }

  /** The ids of a text with special tokens, at most `longest`: the tail of a longer text is cut off. */
  encode(text: string, longest: number = this.modelMaxLength ?? Infinity): number[] {
    const room = Math.max(0, longest - this.#before.length - this.#after.length);
    return [...this.#before, ...this.tokenize(text).slice(0, room), ...this.#after];
  }

  #ids(text: string, special: boolean): number[] {
    const { ids, tokens } = this.#tokenizer.encode(text, { add_special_tokens: special });
    const unknown = ids.findIndex((id) => !Number.isSafeInteger(id) || id < 0);
    if (unknown < 0) return ids;
    throw new TokenizerError(
      `${this.#file}: Expected an id for the token ${show(tokens[unknown])} but received ${show(ids[unknown])}`,
    );
  }
}

/** transformers writes a very large number where the length is not known. */
function modelMaxLength(length: unknown, file: string): number | undefined {
  if (length === undefined || length === null || (typeof length === "number" && length > 1e6)) return undefined;
  if (typeof length === "number" && Number.isInteger(length) && length >= 3) return length;
  throw new TokenizerError(
    `${file}: Expected a whole number from 3 up for model_max_length but received ${show(length)}`,
  );
}

function withoutFile(folder: string): string {
  const convert = `from transformers import AutoTokenizer as T; T.from_pretrained('<model>').save_pretrained('${folder}')`;
  return (
    `Expected tokenizer.json in ${folder} but received a folder without it. If the model is published without it, ` +
    `Python's transformers makes it: python -c "${convert}"`
  );
}
