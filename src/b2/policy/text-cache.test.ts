import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";
import { fixtures } from "../../../test/support/folders.js";
import { StableDiffusionPipeline, type PromptEmbeds } from "../../pipeline/index.js";
import { liveTensors, tidy } from "../../torch/index.js";
import { TextCache } from "./text-cache.js";

const model = StableDiffusionPipeline.fromPretrained(join(fixtures, "sd1"));
after(() => model.dispose());

/** The model, and every prompt that it was asked to encode. */
function watched(): { encoded: string[]; encodePrompts: (prompts: readonly string[]) => PromptEmbeds } {
  const encoded: string[] = [];
  return {
    encoded,
    encodePrompts: (prompts) => {
      encoded.push(...prompts);
      return model.encodePrompts(prompts);
    },
  };
}

const valuesOf = (cache: TextCache, prompts: readonly string[]): number[][] => {
  const embeds = cache.embeds(prompts);
  const values = tidy(() => embeds.states["hiddenStates"]!.flatten(1).toNestedArray() as number[][]);
  embeds.dispose();
  return values;
};

test("a prompt is encoded once and alone, and its rows come as often as they are named", () => {
  const source = watched();
  const cache = new TextCache(source);
  const [cat, dog, again] = valuesOf(cache, ["a cat", "a dog", "a cat"]);
  assert.deepEqual(again, cat);
  assert.notDeepEqual(dog, cat);
  assert.deepEqual(valuesOf(cache, ["a dog", "red apple"])[0], dog);
  assert.deepEqual(source.encoded, ["a cat", "a dog", "red apple"]);
  cache.dispose();
});

test("texts that are longest out of use make room, and come back to the bit", () => {
  const one = new TextCache(model);
  one.embeds(["a cat"]).dispose();
  const size = one.bytes;
  one.dispose();
  assert.ok(size > 0);

  const live = liveTensors();
  const source = watched();
  const cache = new TextCache(source, { bytesKept: 3 * size });
  const [cat] = valuesOf(cache, ["a cat"]);
  for (let i = 0; i < 40; i++) {
    cache.embeds([`prompt ${i}`, "a dog"]).dispose();
    assert.ok(cache.bytes <= 3 * size, `${cache.bytes} bytes after ${i}`);
  }
  assert.equal(source.encoded.filter((prompt) => prompt === "a dog").length, 1, "what is in use stays");
  assert.deepEqual(valuesOf(cache, ["a cat"])[0], cat);
  assert.equal(source.encoded.filter((prompt) => prompt === "a cat").length, 2);

  // A batch that needs more than the cache keeps is served whole.
  const many = Array.from({ length: 9 }, (_, i) => `of nine ${i}`);
  assert.equal(valuesOf(cache, many).length, 9);
  assert.ok(cache.bytes <= 3 * size);
  cache.dispose();
  assert.equal(cache.bytes, 0);
  assert.equal(liveTensors(), live);
});
