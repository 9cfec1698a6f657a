import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseCaption, Random, sameScene, sceneKey, scenesOf, TEMPLATES } from "../../src/world/index.js";
import { cleanCaption, counterpart, webCaption, WRONG_CAPTIONS } from "./captions.js";
import { drawSkewedScene } from "./scene-choice.js";

describe("captions to learn from", () => {
  it("are right where they should be", () => {
    const random = new Random(1);
    for (const scene of TEMPLATES.flatMap(scenesOf)) {
      assert.deepEqual(parseCaption(cleanCaption(scene, random)), scene);
    }
  });

  it("are wrong as often as documented, and name the counterpart then", () => {
    for (const template of TEMPLATES) {
      const random = new Random(2);
      const scenes = scenesOf(template);
      let wrong = 0;
      const count = 20_000;
      for (let i = 0; i < count; i++) {
        const scene = random.pick(scenes);
        if (!sameScene(parseCaption(webCaption(scene, random))!, scene)) wrong++;
      }
      assert.ok(Math.abs(wrong / count - WRONG_CAPTIONS[template]) < 0.015, `${template}: ${wrong / count}`);
    }
  });

  it("confuse a scene with another of its template", () => {
    const random = new Random(3);
    for (const scene of TEMPLATES.flatMap(scenesOf)) {
      const other = counterpart(scene, random);
      assert.equal(other.template, scene.template);
      assert.ok(!sameScene(other, scene));
    }
  });
});

describe("the skewed choice of scenes", () => {
  it("reaches every scene, some far more often than others", () => {
    const random = new Random(4);
    const counts = new Map<string, number>();
    for (let i = 0; i < 200_000; i++) {
      const key = sceneKey(drawSkewedScene(random));
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    assert.equal(counts.size, 462);
    const colours = [...counts].filter(([key]) => key.startsWith("colour")).map(([, count]) => count);
    assert.ok(Math.max(...colours) > 3 * Math.min(...colours));
  });
});
