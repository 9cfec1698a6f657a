/**
 * A tokenizer of the tokenizers library, whatever its algorithm: `tokenizer.json`, and the length of a text from
 * `tokenizer_config.json`. The package @huggingface/tokenizers reads and applies it; this adds what it leaves out, which is
 * truncation, padding, the normaliser Nmt, and errors that name the file.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { isJsonObject, readJsonObject, readText, writeFileAtomic, writeJson, type JsonObject } from "../base/files.js";
import { show } from "../base/show.js";
import { tensor, type Tensor } from "../torch/index.js";
import { contentOf, TokenizerError } from "./files.js";

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

/** How a chat is written, where it is not in tokenizer_config.json. Nothing is read from it; a saved model keeps it. */
const CHAT_TEMPLATE = "chat_template.jinja";

/** Any text whose tokens stand out among the special ones. */
const PROBE = "a";

/** A tokenizer.json, see the top of this file. */
export class JsonTokenizer {
  /** Number of ids that a text can have, special tokens included; undefined where the folder does not say. */
  readonly modelMaxLength: number | undefined;
  /** The largest id. */
  readonly lastId: number;
  /** The id of padding; undefined where the folder names no such token. */
  readonly padTokenId: number | undefined;

  readonly #file: string;
  readonly #tokenizer: Tokenizer;
  /** The contents of tokenizer.json and tokenizer_config.json, and of a chat's template. */
  readonly #contents: Settings["contents"];
  /** The special tokens before and after a text. */
  readonly #before: readonly number[];
  readonly #after: readonly number[];

  private constructor(file: string, tokenizer: Tokenizer, settings: Settings) {
    this.#file = file;
    this.#tokenizer = tokenizer;
    this.#contents = settings.contents;
    this.modelMaxLength = settings.modelMaxLength;
    const vocab = tokenizer.get_vocab(true);
    this.lastId = [...vocab.values()].reduce((a, b) => Math.max(a, b), 0);
    this.padTokenId = settings.padToken === undefined ? undefined : vocab.get(settings.padToken);
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
    const template = join(folder, CHAT_TEMPLATE);
    const chat = existsSync(template) ? readText(template, TokenizerError) : undefined;
    const settings = {
      modelMaxLength: modelMaxLength(config["model_max_length"], configFile),
      padToken: contentOf(config["pad_token"]),
      contents: [json, config, chat] as const,
    };
    const { Tokenizer } = loadLibrary();
    try {
      const known = { ...json, normalizer: withoutNmt(json["normalizer"]) };
      return new JsonTokenizer(file, new Tokenizer(known, config), settings);
    } catch (cause) {
      if (cause instanceof TokenizerError) throw cause;
      const { message } = cause as Error;
      throw new TokenizerError(`${file}: Expected a file of the tokenizers library but reading it failed: ${message}`, {
        cause,
      });
    }
  }

  /** Writes a folder that fromPretrained and transformers read. */
  savePretrained(folder: string): void {
    const [json, config, chat] = this.#contents;
    writeJson(join(folder, "tokenizer.json"), json);
    writeJson(join(folder, "tokenizer_config.json"), config);
    if (chat !== undefined) writeFileAtomic(join(folder, CHAT_TEMPLATE), chat);
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

  /**
   * The texts' ids as int64 [B, length]: each as `encode` gives it, padded at its end.
   *
   * @throws TokenizerError where the folder names no token for padding
   */
  encodeBatch(texts: readonly string[], length: number): Tensor {
    const { padTokenId: padding } = this;
    if (padding === undefined) {
      throw new TokenizerError(
        `${this.#file}: Expected a pad_token in the tokenizer_config.json beside it but received none`,
      );
    }
    const rows = texts.map((text) => {
      const ids = this.encode(text, length);
      return [...ids, ...Array<number>(length - ids.length).fill(padding)];
    });
    return tensor(BigInt64Array.from(rows.flat().map(BigInt)), { shape: [texts.length, length], dtype: "int64" });
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

/** What the files say. */
interface Settings {
  readonly contents: readonly [json: JsonObject, config: JsonObject, chat: string | undefined];
  readonly modelMaxLength: number | undefined;
  readonly padToken: string | undefined;
}

/** SentencePiece's nmt rules: these control characters go, those become blanks. */
const NMT: readonly (readonly [characters: string, content: string])[] = [
  ["[\u0001-\u0008\u000B\u000E-\u001F\u007F\u008F\u009F]", ""],
  ["[\t\n\f\r\u1680\u200B-\u200F\u2028\u2029\u2581\uFEFF\uFFFD]", " "],
];

/** A normaliser with Nmt, which the library does not have, as the replacements that it is. */
function withoutNmt(normalizer: unknown): unknown {
  if (!isJsonObject(normalizer)) return normalizer;
  const { type, normalizers } = normalizer;
  if (type === "Sequence" && Array.isArray(normalizers)) return { type, normalizers: normalizers.map(withoutNmt) };
  if (type !== "Nmt") return normalizer;
  const replace = NMT.map(([Regex, content]) => ({ type: "Replace", pattern: { Regex }, content }));
  return { type: "Sequence", normalizers: replace };
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
