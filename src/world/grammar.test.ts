import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  captionsOf,
  parseCaption,
  sameScene,
  sceneKey,
  scenesOf,
  TEMPLATES,
  vocabulary,
  type Scene,
} from "./grammar.js";
import { heldOutPrompts, isHeldOut, trainingPrompts } from "./prompts.js";

describe("grammar", () => {
  it("has 54 activity, 96 colour, 312 relation and 2,592 combined scenes, all different", () => {
    const counts = TEMPLATES.map((template) => scenesOf(template).length);
    assert.deepEqual(counts, [54, 96, 312, 2592]);
    assert.equal(new Set(TEMPLATES.flatMap(scenesOf).map(sceneKey)).size, 3054);
  });

  it("reads every caption back to its scene", () => {
    for (const scene of TEMPLATES.flatMap(scenesOf)) {
      for (const caption of captionsOf(scene)) assert.deepEqual(parseCaption(caption), scene, caption);
    }
  });

  it("takes two captions of one image for one scene", () => {
    const same = (a: string, b: string) => sameScene(parseCaption(a)!, parseCaption(b)!);
    assert.ok(same("dog on house", "house under dog"));
    assert.ok(same("car on the left of tree", "tree on the right of car"));
    assert.ok(!same("dog on house", "house on dog"));
    assert.ok(!same("car on the left of tree", "car on the right of tree"));
    assert.ok(!same("car on the left of tree", "car on tree"));
  });

  it("names combined scenes in one sentence", () => {
    const scene = { template: "combined", animal: "fox", activity: "riding a bike", colour: "orange", fruit: "apple" };
    assert.deepEqual(parseCaption("a fox riding a bike with an orange apple"), scene);
    assert.equal(parseCaption("a fox riding a bike with a orange apple"), undefined);
    assert.equal(parseCaption("a fox riding a bike with a green kiwi"), undefined, "kiwi is no small fruit");
  });

  it("forgives case and spaces, and nothing else", () => {
    assert.deepEqual(parseCaption("  Red   apple "), { template: "colour", colour: "red", fruit: "apple" });
    for (const text of ["", "red", "apple red", "dog on dog", "a cat", "a cat riding a bike."]) {
      assert.equal(parseCaption(text), undefined, text);
    }
  });

  it("has a vocabulary of single words", () => {
    assert.ok(vocabulary().every((word) => /^[a-z]+$/.test(word)));
    assert.equal(new Set(vocabulary()).size, vocabulary().length);
  });
});

describe("prompts", () => {
  it("divide the scenes without overlap", () => {
    for (const template of TEMPLATES) {
      const training = trainingPrompts(template).map((prompt) => sceneKey(parseCaption(prompt)!));
      const heldOut = heldOutPrompts(template).map((prompt) => sceneKey(parseCaption(prompt)!));
      assert.ok(heldOut.every((key) => !training.includes(key)));
      assert.equal(new Set([...training, ...heldOut]).size, scenesOf(template).length);
    }
  });

  it("hold out combinations, never words", () => {
    for (const template of TEMPLATES) {
      const words = new Set(trainingPrompts(template).flatMap((prompt) => prompt.split(" ")));
      for (const prompt of heldOutPrompts(template)) {
        for (const word of prompt.split(" ")) assert.ok(words.has(word), `${word} of "${prompt}"`);
      }
    }
  });

  it("hold out combined scenes so that any two of their words occur together in training", () => {
    const pairs = (scene: Scene): string[] => {
      const values = Object.values(scene) as string[];
      return values.flatMap((a, i) => values.slice(i + 1).map((b) => `${a} / ${b}`));
    };
    const known = new Set(trainingPrompts("combined").flatMap((prompt) => pairs(parseCaption(prompt)!)));
    for (const prompt of heldOutPrompts("combined")) {
      for (const pair of pairs(parseCaption(prompt)!)) assert.ok(known.has(pair), pair);
    }
  });

  it("list combined scenes so that a few of them, evenly spaced, have nearly all values", () => {
    const list = trainingPrompts("combined");
    const few = Array.from({ length: 64 }, (_, i) => parseCaption(list[Math.floor((i * list.length) / 64)]!)!);
    const values = (slot: string): number => new Set(few.map((scene) => scene[slot as keyof Scene])).size;
    assert.deepEqual([values("activity"), values("colour"), values("fruit")], [3, 8, 6]);
    assert.ok(values("animal") >= 16, String(values("animal")));
  });

  it("hold out as many scenes as documented", () => {
    const counts = TEMPLATES.map((template) => scenesOf(template).filter(isHeldOut).length);
    assert.deepEqual(counts, [18, 24, 78, 648]);
  });
});
