/** Merges as the definition says them, and of a megabyte without a space. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fixtures } from "../../test/support/folders.js";
import { Random } from "../../test/support/mutate.js";
import { CLIPTokenizer } from "./clip-tokenizer.js";
import { mergePairs, type RankOf } from "./merge.js";

/** All occurrences of the pair with the lowest rank, from the left, again and again. */
function asDefined(letters: readonly string[], rankOf: RankOf): readonly string[] {
  const ranks = letters.slice(1).map((right, i) => rankOf(letters[i]!, right));
  const best = Math.min(Infinity, ...ranks);
  if (best === Infinity) return letters;
  const merged: string[] = [];
  for (let i = 0; i < letters.length; i++) merged.push(ranks[i] === best ? letters[i]! + letters[++i]! : letters[i]!);
  return asDefined(merged, rankOf);
}

test("merges are those of the definition, for random ranks and words", () => {
  const random = new Random(1);
  for (let i = 0; i < 2000; i++) {
    const symbols = ["a", "b", "c"];
    const ranks = new Map<string, number>();
    for (let rank = 0; rank < 12; rank++) {
      const [left, right] = [random.pick(symbols), random.pick(symbols)];
      if (!ranks.has(`${left} ${right}`)) ranks.set(`${left} ${right}`, ranks.size);
      symbols.push(left + right);
    }
    const rankOf: RankOf = (left, right) => ranks.get(`${left} ${right}`) ?? Infinity;
    const word = Array.from({ length: random.below(30) }, () => random.pick(["a", "b", "c"]));
    assert.deepEqual(mergePairs(word, rankOf), asDefined(word, rankOf), word.join(""));
  }
});

describe("a megabyte", { timeout: 120_000 }, () => {
  const tokenizer = CLIPTokenizer.fromPretrained(join(fixtures, "sd1/tokenizer"));
  const random = new Random(2);
  const texts: Readonly<Record<string, string>> = {
    "of one letter": "a".repeat(2 ** 20),
    "of random letters without a space": Array.from({ length: 2 ** 20 }, () =>
      String.fromCharCode(97 + random.below(26)),
    ).join(""),
    "of control characters": "\u0000\u001b".repeat(2 ** 19),
    "of halves of pairs": "\ud800".repeat(2 ** 20),
    "of accents on one letter": `e${"\u0301".repeat(2 ** 20)}`,
    "of special tokens": "<|endoftext|>".repeat(2 ** 16),
  };
  for (const [name, text] of Object.entries(texts)) {
    test(name, () => {
      const ids = tokenizer.encode(text);
      assert.equal(ids.length, 77);
      assert.ok(ids.every((id) => id >= 0 && id < tokenizer.vocabSize));
      assert.equal(ids[0], tokenizer.bosTokenId);
      assert.equal(ids[76], tokenizer.eosTokenId);
    });
  }
});
