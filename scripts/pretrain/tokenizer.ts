/**
 * Makes CLIP's tokenizer files (vocab.json, merges.txt) for the words of the captions: byte-pair encoding learnt from
 * the words alone, until each is one token. As the alphabet holds all 256 bytes, any other text can be encoded too.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const END_OF_WORD = "</w>";

export interface TokenizerFiles {
  vocab: Record<string, number>;
  merges: [string, string][];
  startId: number;
  endId: number;
}

/** GPT-2's printable stand-ins for the 256 bytes, in CLIP's order: printable bytes first, then the others from U+0100. */
function byteAlphabet(): string[] {
  const printable = Array.from({ length: 256 }, (_, byte) => byte).filter(
    (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174,
  );
  const others = 256 - printable.length;
  return [...printable, ...Array.from({ length: others }, (_, i) => 256 + i)].map((code) => String.fromCodePoint(code));
}

/** Learns the merges: each time the commonest neighbouring pair, ties to the pair that comes first in the alphabet. */
export function learnTokenizer(words: readonly string[]): TokenizerFiles {
  let pieces = words.map((word) =>
    [...word].map((letter, i) => (i === word.length - 1 ? letter + END_OF_WORD : letter)),
  );
  const merges: [string, string][] = [];
  for (;;) {
    const counts = new Map<string, number>();
    for (const word of pieces) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = `${word[i]} ${word[i + 1]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const best = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1))[0];
    if (!best) break;
    const [left, right] = best[0].split(" ") as [string, string];
    merges.push([left, right]);
    pieces = pieces.map((word) => mergePair(word, left, right));
  }
  const alphabet = byteAlphabet();
  const tokens = [
    ...alphabet,
    ...alphabet.map((letter) => letter + END_OF_WORD),
    ...merges.map(([left, right]) => left + right),
    START,
    END,
  ];
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  return { vocab, merges, startId: vocab[START]!, endId: vocab[END]! };
}

function mergePair(word: readonly string[], left: string, right: string): string[] {
  const merged: string[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      merged.push(left + right);
      i++;
    } else {
      merged.push(word[i]!);
    }
  }
  return merged;
}

/** Writes the files that transformers' CLIPTokenizer reads. */
export function saveTokenizer({ vocab, merges }: TokenizerFiles, folder: string, maxLength: number): void {
  mkdirSync(folder, { recursive: true });
  const special = { bos_token: START, eos_token: END, unk_token: END, pad_token: END };
  const config = { ...special, do_lower_case: true, model_max_length: maxLength, tokenizer_class: "CLIPTokenizer" };
  const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
  write("vocab.json", `${JSON.stringify(vocab)}\n`);
  write("merges.txt", `#version: 0.2\n${merges.map((pair) => `${pair.join(" ")}\n`).join("")}`);
  write("special_tokens_map.json", `${JSON.stringify(special, null, 2)}\n`);
  write("tokenizer_config.json", `${JSON.stringify(config, null, 2)}\n`);
}

/** The tokenizer's fields of a CLIP text config. */
export function withTokenizer<C extends object>(config: C, { vocab, startId, endId }: TokenizerFiles) {
  return {
    ...config,
    vocab_size: Object.keys(vocab).length,
    bos_token_id: startId,
    eos_token_id: endId,
    pad_token_id: endId,
  };
}
