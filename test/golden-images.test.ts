/** CLIP's image preprocessing against golden pixels, and pictures to PNG and back. */
import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import {
  clipPreprocess,
  contactSheet,
  imageGrid,
  lineChart,
  readImage,
  readPreprocessorConfig,
  writePng,
} from "../src/images/index.js";
import { Generator, liveTensors, rand, tidy } from "../src/torch/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { assertClose, GoldenSet, goldenSets, outputTolerance } from "./support/golden.js";

for (const set of goldenSets("clip", "photo.png")) {
  test(`clipPreprocess, golden ${set.name}`, async () => {
    const image = await readImage(set.path("clip", "photo.png"));
    const config = readPreprocessorConfig(set.path("clip"));
    const expected = set.tensors("clip", "photo.safetensors").get("pixel_values");
    tidy(() => {
      const pixels = clipPreprocess(image.unsqueeze(0), config);
      assertClose(pixels, expected, outputTolerance, `${set.name} photo`);
      const smooth = clipPreprocess(image.unsqueeze(0), config, { rounding: false });
      assertClose(smooth, expected, 0.02, `${set.name} photo, not rounded`);
    });
    image.dispose();
  });
}

test("clipPreprocess with other filters, sizes and crops", () => {
  const set = new GoldenSet(join(fixtures, "preprocessing"));
  const io = set.tensors("io.safetensors");
  const folder = temporaryFolder();
  set.json<object[]>("settings.json").forEach((settings, i) => {
    writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify(settings));
    tidy(() => {
      const pixels = clipPreprocess(io.get("picture").unsqueeze(0), readPreprocessorConfig(folder));
      assertClose(pixels, io.get(String(i)), outputTolerance, JSON.stringify(settings));
    });
  });
  writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify({ resample: 0 }));
  assert.throws(() => readPreprocessorConfig(folder), /preprocessor_config.json: Expected settings .* resample/);
});

test("a picture written and read again", async () => {
  const folder = temporaryFolder();
  const image = tidy(() =>
    rand([3, 5, 7], { generator: new Generator(0) })
      .mul(255)
      .round()
      .div(255),
  );
  try {
    const file = join(folder, "sub", "image.png");
    const before = liveTensors();
    writePng(file, image);
    assert.deepEqual(readdirSync(join(folder, "sub")), ["image.png"]);
    const again = await readImage(file);
    assert.deepEqual(again.shape, [3, 5, 7]);
    tidy(() => assertClose(again, image, 1e-6, "read again"));
    again.dispose();
    assert(liveTensors() <= before); // fewer where garbage was collected
  } finally {
    image.dispose();
  }
});

test("sheets, grids and charts are PNGs of some size", () => {
  const isPng = (bytes: Uint8Array) => Buffer.from(bytes.subarray(1, 4)).toString() === "PNG" && bytes.length > 200;
  tidy(() => {
    const images = rand([3, 3, 8, 8], { generator: new Generator(0) });
    assert(isPng(imageGrid(images, { columns: 2 })));
    const column = { images: images.split(1).map((image) => image.squeeze(0)) };
    assert(isPng(contactSheet([column], ["a <cat> & dog", "b", "c"], { title: "Three" })));
    const heightOf = (bytes: Uint8Array) => Buffer.from(bytes).readUInt32BE(20);
    const captions = ["a", "b", "c"];
    // Three images of one caption below each other, 112 points of two pixels each and a gap of 4.
    const row = heightOf(contactSheet([column], captions, { perRow: 3 }));
    assert.equal(heightOf(contactSheet([column], ["a"])) - row, 2 * 2 * (112 + 4));
    // A second part is a second row, 24 points below, and each heading takes 30.
    const sections = [
      { title: "Two", length: 2 },
      { title: "One", length: 1 },
    ];
    const inParts = heightOf(contactSheet([column], captions, { sections, perRow: 3 }));
    assert.equal(inParts - row, row - 2 * 2 * 32 + 2 * (24 + 2 * 30));
    assert.throws(
      () => contactSheet([column], captions, { sections: [{ length: 2 }] }),
      /Expected sections of 3 captions in all but received 2/,
    );
    assert.throws(() => contactSheet([column], ["a", "b"]), /Expected 4 images, 2 per caption, .* but received 3/);
  });
  assert(isPng(lineChart([{ name: "reward", values: [] }])));
  assert(isPng(lineChart([{ name: "reward", values: [1, NaN, 1], spread: [0, 0, 0.1] }])));
});
