/** Rewards: CLIPScore against golden features, rewards of one's own, and everything they may return that is wrong. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { z } from "zod";
import { clipPreprocess, readImage, readPreprocessorConfig } from "../src/images/index.js";
import { CLIPModel } from "../src/models/index.js";
import {
  Clip,
  clipScore,
  registerReward,
  RewardResources,
  RewardSet,
  type WeightedReward,
} from "../src/rewards/index.js";
import { CLIPTokenizer } from "../src/tokenizer/index.js";
import { Generator, liveTensors, noGrad, ones, rand, stack, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { goldenSets } from "./support/golden.js";

const inFolder = (use: (folder: string) => Promise<void>): Promise<void> => use(temporaryFolder());

for (const set of goldenSets("clip", "photo.png")) {
  test(`CLIPScore is the cosine of features, golden ${set.name}`, () =>
    inFolder(async (folder) => {
      await cp(set.path("clip"), folder, { recursive: true });
      await cp(set.path("tokenizer"), folder, { recursive: true });
      const photo = await readImage(join(folder, "photo.png"));
      const images = tidy(() => stack([photo, photo.flip([2]), photo.mul(0.5)]));
      const prompts = ["a cat", "a dog", "a cat"];
      const live = liveTensors();
      const clip = Clip.fromPretrained(folder);
      const reward = clipScore(clip);
      const scores = Array.from(await reward.score(images, prompts));
      const before = liveTensors();
      assert.deepEqual(await reward.score(images, prompts), scores);
      assert(liveTensors() <= before); // fewer where garbage was collected
      clip.dispose();
      assert(liveTensors() <= live);

      const expected = tidy(() => noGrad(() => cosines(folder, images, prompts)));
      scores.forEach((score, i) => assert(Math.abs(score - expected[i]!) < 1e-5));
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

/** Opens rewards as a config would have them. */
const open = (
  named: ({ name: string } & Partial<WeightedReward>)[],
  resources = new RewardResources("cpu"),
): Promise<RewardSet> => {
  const weighted = named.map((one): WeightedReward => ({ weight: 1, label: null, ...one }));
  return RewardSet.open(weighted, resources);
};

test("brightness and JPEG compressibility", async () => {
  const images = tidy(() =>
    stack([ones([3, 16, 16]), zeros([3, 16, 16]), rand([3, 16, 16], { generator: new Generator(0) })]),
  );
  const both = await open([{ name: "brightness" }, { name: "jpeg-compressibility" }]);
  const { parts } = await both.score(images, ["", "", ""]);
  assert.deepEqual(parts["brightness"]!.slice(0, 2), [1, 0]);
  const [flat, , noisy] = parts["jpeg-compressibility"]!;
  assert(flat! > noisy! && flat! < 0);
  const coarse = await open([{ name: "jpeg-compressibility", quality: 10 }]);
  assert((await coarse.score(images, ["", "", ""])).total[2]! > noisy!);
  images.dispose();
});

test("several rewards: each on its own, and their weighted sum", async () => {
  const images = tidy(() => stack([ones([3, 4, 4]), zeros([3, 4, 4])]));
  const set = await open([
    { name: "brightness", weight: 2 },
    { name: "brightness", label: "dark", weight: -0.5 },
  ]);
  const { total, parts, seconds } = await set.score(images, ["", ""]);
  assert.deepEqual(parts, { brightness: [1, 0], dark: [1, 0] });
  assert.deepEqual(total, [1.5, 0]);
  assert.deepEqual(Object.keys(seconds), set.labels);
  images.dispose();
});

test("rewards of one folder share its CLIP, and all memory comes back", async () => {
  const folder = join(fixtures, "sd1");
  const path = temporaryFolder();
  await cp(join(folder, "clip"), path, { recursive: true });
  await cp(join(folder, "tokenizer"), path, { recursive: true });
  const live = liveTensors();
  const resources = new RewardResources("cpu");
  const one = await open([{ name: "clip-score", model: path }], resources);
  const loaded = liveTensors();
  const two = await open([{ name: "clip-score", model: path }], resources);
  assert.equal(resources.clip(path), resources.clip(path));
  assert.equal(liveTensors(), loaded);
  for (const set of [one, two]) set.dispose();
  resources.dispose();
  assert(liveTensors() <= live);
});

test("those that were opened are disposed of when another cannot be", async () => {
  let disposed = 0;
  registerReward({
    name: "test-disposed",
    summary: "Counts its end",
    cost: "nothing",
    options: z.object({}),
    open: () => ({ score: (_, prompts) => prompts.map(() => 0), dispose: () => void disposed++ }),
  });
  await assert.rejects(open([{ name: "test-disposed" }, { name: "clip-score", model: "/none" }]), /none/);
  assert.equal(disposed, 1);
  assert.throws(
    () =>
      registerReward({
        name: "brightness",
        summary: "",
        cost: "",
        options: z.object({}),
        open: () => {
          throw new Error();
        },
      }),
    /Expected a new name for a reward but received brightness/,
  );
});

test("a module of one's own, and what is wrong with others", async () => {
  const folder = temporaryFolder();
  const module = (name: string, code: string): string => {
    const file = join(folder, name);
    writeFileSync(file, code);
    return file;
  };
  const images = zeros([2, 3, 4, 4]);
  const call = async (path: string): Promise<readonly number[]> =>
    (await (await open([{ name: "module", path }])).score(images, ["a", "bcd"])).total;
  const lengths = module("lengths.mjs", "export default async (images, prompts) => prompts.map((p) => p.length)");
  assert.deepEqual(await call(lengths), [1, 3]);
  const object = module("object.mjs", "export default { score: (images, prompts) => prompts.map((p) => -p.length) }");
  assert.deepEqual(await call(object), [-1, -3]);
  const wrong: [string, string, RegExp][] = [
    ["one.mjs", "export default () => [1]", /Expected 2 numbers, one per image, from the reward one but received 1/],
    ["nan.mjs", "export default () => [1, NaN]", /Expected a finite number .* received NaN for image 1, "bcd"/],
    ["text.mjs", 'export default () => [1, "2"]', /Expected a finite number .* received "2" for image 1/],
    ["none.mjs", "export const reward = 1", /Expected a function, .* as default export of .* but received undefined/],
    ["broken.mjs", "export default (", /broken.mjs: Expected a module for the reward but loading it failed/],
  ];
  for (const [name, code, error] of wrong) await assert.rejects(call(module(name, code)), error);
  await assert.rejects(
    call(join(folder, "missing.mjs")),
    /Expected a module for the reward but received .*missing.mjs/,
  );
  await assert.rejects(
    open([{ name: "clipscore" }]),
    /for the reward but received clipscore; did you mean clip-score\?/,
  );
  images.dispose();
});

test("what is no reward is refused when it is given, not once images are sampled", () => {
  for (const wrong of [5, null, {}, "brightness"]) {
    assert.throws(
      () => RewardSet.of(wrong as never),
      /Expected a function, or an object with a function score, for the reward but received/,
    );
  }
});
