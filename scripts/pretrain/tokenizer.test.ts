import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { captionsOf, scenesOf, TEMPLATES, vocabulary } from "../../src/world/index.js";
import { temporaryFolder } from "../../test/support/folders.js";
import { MAX_CAPTION_TOKENS } from "./recipe.js";
import { learnTokenizer, saveTokenizer } from "./tokenizer.js";

describe("the embedded world's tokenizer", () => {
  const folder = temporaryFolder();
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder, MAX_CAPTION_TOKENS);
  const tokenizer = CLIPTokenizer.fromPretrained(folder);

  it("has one token for each word", () => {
    for (const word of vocabulary()) assert.ok(files.vocab[`${word}</w>`] !== undefined, word);
  });

  it("encodes each caption as its words between the two marks", () => {
    for (const caption of TEMPLATES.flatMap(scenesOf).flatMap(captionsOf)) {
      const words = caption.split(" ").map((word) => files.vocab[`${word}</w>`]!);
      const expected = [files.startId, ...words, files.endId];
      assert.deepEqual(tokenizer.encode(caption).slice(0, expected.length), expected, caption);
    }
  });

  it("can encode any other text", () => {
    assert.ok(tokenizer.encode("Zebra, 7 übergroße Äpfel!").every((id) => Number.isInteger(id)));
  });
});
