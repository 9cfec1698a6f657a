import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Generator, liveTensors, tidy, zeros } from "../torch/index.js";
import { SceneClassifier } from "./classifier.js";
import { captionsOf, sameScene, scenesOf, TEMPLATES, type Scene } from "./grammar.js";
import { toImages, toPixels } from "./images.js";
import { Random } from "./random.js";
import { Renderer } from "./renderer.js";

const folder = join(fileURLToPath(new URL(".", import.meta.url)), "../../../models/emoji-classifier");
const config = { channels: [8, 8, 16, 16], norm_num_groups: 4, hidden_size: 16, image_size: 64 };

describe("SceneClassifier", () => {
  it("reads at least 98% of clean renders right, every scene once", () => {
    const classifier = SceneClassifier.fromPretrained(folder);
    const scenes = TEMPLATES.flatMap(scenesOf);
    let right = 0;
    tidy(() => {
      const read = classifier.readScenes(toImages(new Renderer().drawBatch(scenes, new Random(12345))));
      right = read.filter((scene, i) => sameScene(scene, scenes[i]!)).length;
    });
    assert.ok(right >= 0.98 * scenes.length, `${right} of ${scenes.length}`);
    classifier.dispose();
  });

  it("reads at least 98% of every slot of every template right", () => {
    const classifier = SceneClassifier.fromPretrained(folder);
    const random = new Random(54321);
    for (const template of TEMPLATES) {
      const scenes = random.shuffled(scenesOf(template)).slice(0, 400);
      let read: Scene[] = [];
      tidy(() => {
        read = classifier.readScenes(toImages(new Renderer().drawBatch(scenes, random)));
      });
      for (const slot of Object.keys(scenes[0]!) as (keyof Scene)[]) {
        const right = scenes.filter((scene, i) => scene[slot] === read[i]![slot]).length / scenes.length;
        assert.ok(right >= 0.98, `${template}, ${slot}: ${right}`);
      }
    }
    classifier.dispose();
  });

  it("takes either caption of a relation for aligned, and the swapped one for not", () => {
    const classifier = SceneClassifier.fromPretrained(folder);
    const scene = { template: "relation", axis: "vertical", first: "dog", second: "house" } as const;
    tidy(() => {
      const images = toImages(new Renderer().drawBatch([scene, scene, scene], new Random(3)));
      const prompts = [...captionsOf(scene), "house on dog"];
      assert.deepEqual(classifier.trueAlignment(images, prompts), [true, true, false]);
    });
    classifier.dispose();
  });

  it("tells which slots of a prompt are right, within the scene that it reads", () => {
    const classifier = SceneClassifier.fromPretrained(folder);
    const scene = { template: "activity", animal: "fox", activity: "riding a bike" } as const;
    const prompts = ["a fox riding a bike", "a fox playing chess", "red apple", "dog on house"];
    tidy(() => {
      const images = toImages(new Renderer().drawBatch([scene, scene, scene, scene], new Random(3)));
      assert.deepEqual(classifier.slotAlignment(images, prompts), [
        { template: true, animal: true, activity: true },
        { template: true, animal: true, activity: false },
        { template: false, colour: false, fruit: false },
        { template: false, axis: false, first: false, second: false },
      ]);
      assert.deepEqual(classifier.trueAlignment(images, prompts), [true, false, false, false]);
    });
    classifier.dispose();
  });

  it("says what it expected of images and prompts", () => {
    const classifier = SceneClassifier.fromConfig(config, { generator: new Generator(1) });
    tidy(() => {
      const image = zeros([1, 3, 64, 64]);
      assert.throws(
        () => classifier.readScenes(zeros([1, 3, 32, 32])),
        /Expected \[B, 3, 64, 64\] for images but received/,
      );
      assert.throws(() => classifier.trueAlignment(image, []), /Expected one prompt per image, 1, but received 0/);
      assert.throws(() => classifier.trueAlignment(image, ["a unicorn"]), /Expected a caption of the embedded world/);
    });
    classifier.dispose();
  });

  it("leaves no tensors behind", () => {
    const classifier = SceneClassifier.fromConfig(config, { generator: new Generator(1) });
    const images = zeros([2, 3, 64, 64]);
    const before = liveTensors();
    classifier.readScenes(images);
    assert.equal(liveTensors(), before);
    images.dispose();
    classifier.dispose();
  });
});

describe("bytes as tensors", () => {
  it("come back as they went", () => {
    const pixels = new Renderer().drawBatch(scenesOf("colour").slice(0, 3), new Random(6));
    tidy(() => assert.deepEqual(Buffer.from(toPixels(toImages(pixels))), Buffer.from(pixels)));
  });

  it("have to be whole", () => {
    assert.throws(
      () => toImages(new Uint8Array(100)),
      /Expected a multiple of 12288 bytes for pixels but received 100/,
    );
  });
});
