// What the scores of a folder come to.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ScoredImage } from "./score-folder.js";
import { summarisePrompts, summariseRewards, TOTAL } from "./score-summary.js";

const image = (name: string, prompt: string, a: number, b: number): ScoredImage => {
  return { name, prompt, metadata: {}, rewards: { a, b }, total: a + 2 * b };
};

// Two prompts of three and two images: a differs inside of them, b between them alone.
const images = [
  image("0.png", "cat", 1, 5),
  image("1.png", "dog", 10, 7),
  image("2.png", "cat", 2, 5),
  image("3.png", "cat", 3, 5),
  image("4.png", "dog", 14, 7),
];

test("each reward over all images, and inside of prompts", () => {
  const [a, b, total] = summariseRewards({ images, seconds: { a: 10, b: 0.5 }, judges: [] });
  assert.deepEqual(
    [a!.label, a!.mean, a!.lowest, a!.highest, a!.secondsPerImage],
    ["a", 6, { value: 1, name: "0.png" }, { value: 14, name: "4.png" }, 2],
  );
  assert.ok(Math.abs(a!.deviation - Math.sqrt(130 / 4)) < 1e-12);
  // Squares around the means of the prompts, 2 and 12, over 2 + 1 degrees of freedom.
  assert.ok(Math.abs(a!.withinPrompt! - Math.sqrt((2 + 8) / 3)) < 1e-12);
  assert.deepEqual([b!.label, b!.withinPrompt, b!.secondsPerImage], ["b", 0, 0.1]);
  assert.deepEqual([total!.label, total!.mean, total!.secondsPerImage], [TOTAL, 17.6, null]);
});

test("a single reward has no sum beside it, and single images no deviation inside of prompts", () => {
  const [one] = images;
  const single = { images: [{ ...one!, rewards: { a: 1 }, total: 1 }], seconds: { a: 1 }, judges: [] };
  const summary = summariseRewards(single);
  assert.deepEqual([summary.length, summary[0]!.deviation, summary[0]!.withinPrompt], [1, 0, null]);
});

test("a judge is no part of the sum", () => {
  const summary = summariseRewards({ images, seconds: {}, judges: ["b"] });
  assert.deepEqual(
    summary.map(({ label, isJudge }) => [label, isJudge]),
    [
      ["a", false],
      ["b", true],
    ],
  );
});

test("each prompt by itself, in the order of its first image", () => {
  assert.deepEqual(summarisePrompts(images), [
    { prompt: "cat", images: 3, rewards: { a: 2, b: 5 }, total: 12 },
    { prompt: "dog", images: 2, rewards: { a: 12, b: 7 }, total: 26 },
  ]);
});
