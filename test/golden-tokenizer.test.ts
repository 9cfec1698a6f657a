/** CLIPTokenizer against golden ids, exactly. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { temporaryFolder } from "./support/folders.js";
import { goldenSets } from "./support/golden.js";

interface Expected {
  readonly texts: string[];
  readonly input_ids: number[][];
}

const sets = ["tokenizer", "tokenizer_2"].flatMap((part) =>
  goldenSets(part, "expected.json").map((set) => [set, part] as const),
);

for (const [set, part] of sets) {
  test(`CLIPTokenizer, golden ${set.name}, ${part}`, () => {
    const tokenizer = CLIPTokenizer.fromPretrained(set.path(part));
    const { texts, input_ids: ids } = set.json<Expected>(part, "expected.json");
    texts.forEach((text, i) => assert.deepEqual(tokenizer.encode(text), ids[i], JSON.stringify(text)));
    const batch = tokenizer.encodeBatch(texts);
    assert.deepEqual([batch.dtype, ...batch.shape], ["int64", texts.length, tokenizer.modelMaxLength]);
    assert.deepEqual(batch.toArray(), ids.flat());
    batch.dispose();
  });
}

test("a vocabulary made by hand, with words that no pair makes", () => {
  const folder = temporaryFolder();
  const tokens = ["a", "b", "a</w>", "b</w>", "ab</w>", "abba</w>", "<|startoftext|>", "<|endoftext|>"];
  writeFileSync(join(folder, "vocab.json"), JSON.stringify(Object.fromEntries(tokens.map((token, id) => [token, id]))));
  writeFileSync(join(folder, "merges.txt"), "#version: 0.2\na b</w>\n");
  assert.deepEqual(CLIPTokenizer.fromPretrained(folder).tokenize("ab a"), [4, 2]);
});
