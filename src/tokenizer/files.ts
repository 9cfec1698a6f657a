/**
 * The files of a tokenizer folder, as transformers writes them: `vocab.json`, `merges.txt`, and optionally
 * `tokenizer_config.json` and `special_tokens_map.json`, of which the latter takes precedence.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../base/errors.js";
import { readJsonObject, readText, writeFileAtomic } from "../base/files.js";
import { show } from "../base/show.js";

/** A tokenizer folder is incomplete, or has settings that are not supported. */
export class TokenizerError extends InputError {
  override readonly name = "TokenizerError";
}

export interface TokenizerFiles {
  /** Token to id. */
  readonly vocab: ReadonlyMap<string, number>;
  /** Pairs of symbols, in the order in which they are merged. */
  readonly merges: readonly (readonly [string, string])[];
  readonly bosToken: string;
  readonly eosToken: string;
  readonly unkToken: string;
  readonly padToken: string;
  /** Tokens that are matched literally before any other processing of the text. */
  readonly addedTokens: ReadonlyMap<string, number>;
  /** Number of ids per text, including begin and end. */
  readonly modelMaxLength: number;
}

const END = "<|endoftext|>";

/** Suffix of the last symbol of a word. */
export const END_OF_WORD = "</w>";

/** CLIP's length, also used for a folder that names none (or transformers' "very large"). */
const CONTEXT_LENGTH = 77;

/** Writes a tokenizer folder that transformers reads. */
export function writeTokenizerFiles(folder: string, files: TokenizerFiles): void {
  const write = (name: string, text: string) => writeFileAtomic(join(folder, name), text);
  write("vocab.json", JSON.stringify(Object.fromEntries(files.vocab)));
  write("merges.txt", ["#version: 0.2", ...files.merges.map((pair) => pair.join(" ")), ""].join("\n"));
  const special = {
    bos_token: files.bosToken,
    eos_token: files.eosToken,
    pad_token: files.padToken,
    unk_token: files.unkToken,
  };
  write("special_tokens_map.json", JSON.stringify(special, null, 2));
  const added = [...files.addedTokens].map(([content, id]) => [id, { content, special: true }] as const);
  const config = {
    tokenizer_class: "CLIPTokenizer",
    add_prefix_space: false,
    do_lower_case: true,
    model_max_length: files.modelMaxLength,
    ...special,
    added_tokens_decoder: Object.fromEntries(added),
  };
  write("tokenizer_config.json", JSON.stringify(config, null, 2));
}

/**
 * @param options.padToken replaces the one that the folder names
 * @throws TokenizerError naming the file and what it should hold
 */
export function readTokenizerFiles(folder: string, options: { readonly padToken?: string } = {}): TokenizerFiles {
  const vocab = readVocab(join(folder, "vocab.json"));
  const configFile = join(folder, "tokenizer_config.json");
  const config = existsSync(configFile) ? readJsonObject(configFile, TokenizerError) : {};
  const mapFile = join(folder, "special_tokens_map.json");
  const specials = existsSync(mapFile) ? readJsonObject(mapFile, TokenizerError) : {};
  if (config.do_lower_case === false) {
    throw new TokenizerError(`${configFile}: Expected true for do_lower_case but received false`);
  }

  const special = (key: string, otherwise: string): string => {
    const value = contentOf(specials[key]) ?? contentOf(config[key]) ?? otherwise;
    if (!vocab.has(value)) {
      const file = contentOf(specials[key]) !== undefined ? mapFile : configFile;
      throw new TokenizerError(`${file}: Expected a token of vocab.json for ${key} but received ${value}`);
    }
    return value;
  };
  const bosToken = special("bos_token", "<|startoftext|>");
  const eosToken = special("eos_token", END);
  const unkToken = special("unk_token", END);
  const padToken = options.padToken ?? special("pad_token", END);
  if (!vocab.has(padToken)) {
    throw new TokenizerError(
      `${join(folder, "vocab.json")}: Expected the token ${padToken} (padding) but received none`,
    );
  }
  const addedTokens = new Map([bosToken, eosToken, unkToken, padToken].map((token) => [token, vocab.get(token)!]));
  for (const [id, token] of Object.entries(config.added_tokens_decoder ?? {})) {
    const content = contentOf(token);
    if (content === undefined) continue;
    if (content === "") {
      throw new TokenizerError(`${configFile}: Expected a token for ${id} of added_tokens_decoder but received ""`);
    }
    if (!/^\d{1,9}$/.test(id)) {
      throw new TokenizerError(`${configFile}: Expected ids as keys of added_tokens_decoder but received ${id}`);
    }
    addedTokens.set(content, Number(id));
  }

  const length = config.model_max_length;
  const modelMaxLength = typeof length === "number" && length < 1e6 ? length : CONTEXT_LENGTH;
  if (!Number.isInteger(modelMaxLength) || modelMaxLength < 2) {
    throw new TokenizerError(
      `${configFile}: Expected a whole number from 2 up for model_max_length but received ${modelMaxLength}`,
    );
  }
  const merges = readMerges(join(folder, "merges.txt"));
  checkMerges(join(folder, "merges.txt"), merges, vocab, addedTokens);
  return { vocab, merges, bosToken, eosToken, unkToken, padToken, addedTokens, modelMaxLength };
}

/** Special tokens are strings, or objects with the string as `content`. */
export function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  const content = (token as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

function readVocab(file: string): Map<string, number> {
  const vocab = new Map(Object.entries(readJsonObject(file, TokenizerError)));
  for (const [token, id] of vocab) {
    if (!Number.isSafeInteger(id) || (id as number) < 0) {
      throw new TokenizerError(`${file}: Expected an id for ${show(token, 80)} but received ${show(id)}`);
    }
  }
  return vocab as Map<string, number>;
}

function readMerges(file: string): (readonly [string, string])[] {
  return readText(file, TokenizerError)
    .split("\n")
    .map((line) => line.trimEnd())
    .filter((line) => line !== "" && !line.startsWith("#version"))
    .map((line) => {
      const [left, right, ...rest] = line.split(" ");
      if (!left || !right || rest.length > 0) {
        throw new TokenizerError(`${file}: Expected two symbols per line but received ${show(line)}`);
      }
      return [left, right];
    });
}

/** How many tokens of several letters may lack a merge: small hand-made vocabularies, as in tests, have a few. */
const FEW_TOKENS = 8;

/**
 * Checks that every merge makes a token, and that nearly every token of several letters is made by a merge. Otherwise a
 * truncated file would silently give a tokenizer with other ids.
 */
function checkMerges(
  file: string,
  merges: readonly (readonly [string, string])[],
  vocab: ReadonlyMap<string, number>,
  addedTokens: ReadonlyMap<string, number>,
): void {
  const made = new Set(merges.map(([left, right]) => left + right));
  const unknown = [...made].find((token) => !vocab.has(token));
  if (unknown !== undefined) {
    throw new TokenizerError(`${file}: Expected pairs that make a token of vocab.json but received one for ${unknown}`);
  }
  const isLetter = (token: string): boolean => [...token.replace(END_OF_WORD, "")].length === 1;
  const unmade = [...vocab.keys()].filter((token) => !made.has(token) && !addedTokens.has(token) && !isLetter(token));
  if (unmade.length > FEW_TOKENS) {
    throw new TokenizerError(
      `${file}: Expected a pair for every token of vocab.json but received none for ${unmade.length}, such as ${unmade[0]}`,
    );
  }
}
