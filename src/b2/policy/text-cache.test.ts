import assert from "node:assert/strict";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { Interrupted } from "../../base/errors.js";
import { packageRoot } from "../../base/package-root.js";
import { silent } from "../../base/progress.js";
import { promptsOn, StableDiffusionPipeline } from "../../pipeline/index.js";
import { deviceCount, liveTensors, tidy, type Device } from "../../torch/index.js";
import { TextCache } from "./text-cache.js";

const pipeline = StableDiffusionPipeline.fromPretrained(join(packageRoot(), "test/fixtures/sd1"));
after(() => pipeline.dispose());

/** 77 states of 32 float32. */
const BYTES_OF_ONE = 77 * 32 * 4;

/** A cache with room for `prompts` prompts, and what it had encoded. */
function cacheFor(prompts: number): { cache: TextCache; encoded: string[][] } {
  const encoded: string[][] = [];
  const model = {
    encodePrompts: (texts: readonly string[]) => {
      encoded.push([...texts]);
      return pipeline.encodePrompts(texts);
    },
  };
  return { cache: new TextCache(model, { bytesKept: prompts * BYTES_OF_ONE }), encoded };
}

function statesOf(cache: TextCache, prompts: readonly string[]): number[] {
  const embeds = cache.embeds(prompts);
  const values = embeds.states["hiddenStates"]!.toArray();
  embeds.dispose();
  return values;
}

describe("TextCache", () => {
  it("encodes each prompt once, alone, and gives a row for each prompt as asked", () => {
    const { cache, encoded } = cacheFor(10);
    const rows = statesOf(cache, ["a cat", "a dog", "a cat"]);
    const size = rows.length / 3;
    const [first, second, third] = [0, 1, 2].map((row) => rows.slice(row * size, (row + 1) * size));
    assert.deepEqual(third, first);
    assert.notDeepEqual(second, first);
    assert.deepEqual(statesOf(cache, ["a dog"]), second);
    assert.deepEqual(encoded, [["a cat"], ["a dog"]]);
    assert.equal(cache.bytes, 2 * BYTES_OF_ONE);
    cache.dispose();
  });

  it("stays under its bound with many prompts, in batches and alone, and leaves nothing when it is disposed of", () => {
    const { cache } = cacheFor(3);
    const before = liveTensors();
    for (let i = 0; i < 40; i++) {
      statesOf(cache, [`prompt ${i}`]);
      assert.ok(cache.bytes <= 3 * BYTES_OF_ONE);
    }
    assert.equal(cache.bytes, 3 * BYTES_OF_ONE);
    const batch = Array.from({ length: 9 }, (_, i) => `other ${i}`);
    assert.equal(statesOf(cache, batch).length, (9 * BYTES_OF_ONE) / 4);
    assert.equal(cache.bytes, 3 * BYTES_OF_ONE);
    assert.equal(liveTensors(), before + 3);
    cache.dispose();
    assert.equal(cache.bytes, 0);
    assert.equal(liveTensors(), before);
  });

  it("forgets the prompt that is longest out of use, and gives the same bits when it is encoded again", () => {
    const { cache, encoded } = cacheFor(2);
    const [cat] = [statesOf(cache, ["a cat"]), statesOf(cache, ["a dog"])];
    statesOf(cache, ["a cat"]); // the dog is now longer out of use
    statesOf(cache, ["a fox"]);
    assert.deepEqual(statesOf(cache, ["a cat"]), cat);
    assert.deepEqual(encoded, [["a cat"], ["a dog"], ["a fox"]]);
    statesOf(cache, ["a dog"]);
    statesOf(cache, ["a fox"]);
    assert.deepEqual(statesOf(cache, ["a cat"]), cat);
    assert.deepEqual(encoded.flat(), ["a cat", "a dog", "a fox", "a dog", "a fox", "a cat"]);
    cache.dispose();
  });

  it("encodes ahead what is not known, as far as it may, and keeps all of that", async () => {
    const { cache, encoded } = cacheFor(2);
    const [cat, fox] = [statesOf(cache, ["a cat"]), statesOf(cache, ["a fox"])];
    const four = ["a dog", "a cat", "a cow", "a dog", "an owl"];
    await cache.encodeAhead(four, { progress: silent }, { most: 3 * BYTES_OF_ONE });
    assert.deepEqual(encoded.flat(), ["a cat", "a fox", "a dog", "a cow"]);
    assert.equal(cache.bytes, 3 * BYTES_OF_ONE);
    await cache.encodeAhead(four, { progress: silent });
    assert.deepEqual(encoded.flat().slice(4), ["an owl"]);
    assert.deepEqual(statesOf(cache, four).slice(cat.length, 2 * cat.length), cat);
    assert.equal(cache.bytes, 4 * BYTES_OF_ONE);
    assert.equal(encoded.length, 5);
    assert.deepEqual(statesOf(cache, ["a fox"]), fox); // had to go
    assert.equal(encoded.length, 6);
    const signal = AbortSignal.abort();
    await assert.rejects(cache.encodeAhead(["a cat", "a bat", "a rat"], { progress: silent, signal }), Interrupted);
    cache.dispose();
  });

  it("keeps texts in main memory, and gives them where the model is, to the same bits", () => {
    const device: Device = deviceCount("cuda") > 0 ? "cuda" : "cpu";
    const model = { encodePrompts: (texts: readonly string[]) => promptsOn(pipeline.encodePrompts(texts), device) };
    const [waiting, staying] = [new TextCache(model, { inMainMemory: true }), new TextCache(model)];
    const [given, expected] = [waiting, staying].map(
      (cache) => cache.embeds(["a cat", "a dog"]).states["hiddenStates"]!,
    );
    assert.equal(given!.device, expected!.device);
    assert.deepEqual(given!.to({ device: "cpu" }).toArray(), expected!.to({ device: "cpu" }).toArray());
    for (const one of [given!, expected!, waiting, staying]) one.dispose();
  });

  it("keeps its texts when it is asked within a tidy", () => {
    const { cache, encoded } = cacheFor(2);
    const inside = tidy(() => cache.embeds(["a cat"]).states["hiddenStates"]!.toArray());
    assert.deepEqual(statesOf(cache, ["a cat"]), inside);
    assert.equal(encoded.length, 1);
    cache.dispose();
  });
});
