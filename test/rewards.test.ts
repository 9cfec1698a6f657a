/** Rewards: CLIPScore against golden features, rewards of one's own, and everything they may return that is wrong. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { clipPreprocess, readImage, readPreprocessorConfig } from "../src/images/index.js";
import { CLIPModel } from "../src/models/index.js";
import { brightness, clipScore, jpegCompressibility, loadReward } from "../src/rewards/index.js";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { liveTensors, noGrad, ones, rand, stack, tidy, zeros, Generator, type Tensor } from "../src/torch/index.js";
import { goldenSets } from "./support/golden.js";
import { temporaryFolder } from "./support/folders.js";

const inFolder = (use: (folder: string) => Promise<void>): Promise<void> => use(temporaryFolder());

for (const set of goldenSets("clip", "photo.png")) {
  test(`CLIPScore is the cosine of features, golden ${set.name}`, () =>
    inFolder(async (folder) => {
      await cp(set.path("clip"), folder, { recursive: true });
      await cp(set.path("tokenizer"), folder, { recursive: true });
      const photo = await readImage(join(folder, "photo.png"));
      const images = tidy(() => stack([photo, photo.flip([2]), photo.mul(0.5)]));
      const prompts = ["a cat", "a dog", "a cat"];
      const reward = clipScore({ model: folder, batchSize: 2 });
      const scores = await reward(images, prompts);
      const before = liveTensors();
      assert.deepEqual(await reward(images, prompts), scores);
      assert(liveTensors() <= before); // fewer where garbage was collected

      const expected = tidy(() => noGrad(() => cosines(folder, images, prompts)));
      const named = await loadReward(`clip:${folder}`);
      const whole = await named(images, prompts); // in one batch, which may round otherwise
      scores.forEach((score, i) => {
        assert(Math.abs(score - expected[i]!) < 1e-5);
        assert(Math.abs(score - whole[i]!) < 1e-5);
      });
      images.dispose();
      photo.dispose();
    }));
}

function cosines(folder: string, images: Tensor, prompts: string[]): number[] {
  const model = CLIPModel.fromPretrained(folder);
  const unit = (x: Tensor) => x.div(x.norm({ dim: 1, keepdim: true }));
  const text = unit(model.getTextFeatures(CLIPTokenizer.fromPretrained(folder).encodeBatch(prompts)));
  const image = unit(model.getImageFeatures(clipPreprocess(images, readPreprocessorConfig(folder))));
  return text.mul(image).sum({ dim: 1 }).toArray();
}

test("brightness and JPEG compressibility", async () => {
  const images = tidy(() =>
    stack([ones([3, 16, 16]), zeros([3, 16, 16]), rand([3, 16, 16], { generator: new Generator(0) })]),
  );
  const [white, black] = await brightness(images, ["", "", ""]);
  assert.deepEqual([white, black], [1, 0]);
  const [flat, , noisy] = await jpegCompressibility(images, ["", "", ""]);
  assert(flat! > noisy! && flat! < 0);
  images.dispose();
});

test("a module of one's own, and what is wrong with others", () =>
  inFolder(async (folder) => {
    const module = (name: string, code: string): string => {
      const file = join(folder, name);
      writeFileSync(file, code);
      return file;
    };
    const images = zeros([2, 3, 4, 4]);
    const call = async (file: string) => (await loadReward({ name: file }))(images, ["a", "bcd"]);
    const lengths = module("lengths.mjs", "export default async (images, prompts) => prompts.map((p) => p.length)");
    assert.deepEqual(await call(lengths), [1, 3]);
    const wrong: [string, string, RegExp][] = [
      ["one.mjs", "export default () => [1]", /Expected 2 numbers, one an image, from .*one.mjs but received 1/],
      ["nan.mjs", "export default () => [1, NaN]", /Expected a finite number .* received NaN for image 1, "bcd"/],
      ["none.mjs", "export const reward = 1", /Expected a function as default export of .* but received undefined/],
      ["broken.mjs", "export default (", /Expected a JavaScript module for the reward but/],
    ];
    for (const [name, code, error] of wrong) await assert.rejects(call(module(name, code)), error);
    await assert.rejects(loadReward("clipscore"), /Expected clip-score, .* for the reward but received clipscore/);
    await assert.rejects(loadReward({ name: "clip-score" }), /Expected a CLIP folder/);
    images.dispose();
  }));
