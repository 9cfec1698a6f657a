import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  captionsOf,
  parseCaption,
  Random,
  sameScene,
  sceneKey,
  scenesOf,
  TEMPLATES,
  type Scene,
} from "../../src/world/index.js";
import { cleanCaption, CONFUSIONS, webCaption, WRONG_CAPTIONS } from "./captions.js";
import { drawSkewedScene } from "./scene-choice.js";

describe("captions to learn from", () => {
  it("are right where they should be", () => {
    const random = new Random(1);
    for (const scene of TEMPLATES.flatMap(scenesOf)) {
      assert.deepEqual(parseCaption(cleanCaption(scene, random)), scene);
    }
  });

  it("are wrong as often as documented, each slot by itself", () => {
    for (const template of TEMPLATES) {
      const random = new Random(2);
      const scenes = scenesOf(template);
      const wrong = new Map<string, number>();
      const count = 20_000;
      for (let i = 0; i < count; i++) {
        const scene = random.pick(scenes);
        const named = parseCaption(webCaption(scene, random))!;
        for (const [slot, value] of Object.entries(scene)) {
          if (named[slot as keyof Scene] !== value) wrong.set(slot, (wrong.get(slot) ?? 0) + 1);
        }
      }
      const slots = { activity: 1, colour: 1, relation: 2, combined: 4 }[template];
      assert.equal(wrong.size, slots);
      for (const [slot, times] of wrong) {
        assert.ok(Math.abs(times / count - WRONG_CAPTIONS[template]) < 0.015, `${template}/${slot}: ${times / count}`);
      }
    }
  });

  it("confuse a scene with another of its template", () => {
    const random = new Random(3);
    for (const scene of TEMPLATES.flatMap(scenesOf)) {
      for (const { of } of CONFUSIONS[scene.template]) {
        const other = of(scene, random);
        assert.equal(other.template, scene.template);
        assert.ok(!sameScene(other, scene));
      }
    }
  });

  it("know no confusion of a combined scene's fruit that is not among the small ones", () => {
    const random = new Random(5);
    for (const scene of scenesOf("combined")) {
      for (const { of } of CONFUSIONS.combined) assert.deepEqual(parseCaption(captionsOf(of(scene, random))[0]!)?.template, "combined"); // prettier-ignore
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
    assert.equal(counts.size, 462 + 2592);
    const colours = [...counts].filter(([key]) => key.startsWith("colour")).map(([, count]) => count);
    assert.ok(Math.max(...colours) > 3 * Math.min(...colours));
  });
});
