// The measure of ocr: which text a prompt asks for, and how much of it was read. Reading itself is in test/ocr.test.ts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { optionsOf } from "../base/registry.js";
import { ocr, textReward, wantedText } from "./ocr.js";

test("the wanted text is the first one in quotation marks", () => {
  const prompts: [prompt: string, wanted: string][] = [
    ['New York Skyline with "Hello World" written with fireworks on the sky', "Hello World"],
    ['a cup that says "Stop" beside one that says "Go"', "Stop"],
    ["a poster with “Zürich 1916” on it", "Zürich 1916"],
    ['“first” and "second"', "first"],
    ['a sign: " two words "', " two words "],
  ];
  for (const [prompt, wanted] of prompts) assert.equal(wantedText(prompt), wanted);
});

test("a prompt that asks for no text is named before anything is loaded", () => {
  const options = optionsOf(ocr, { name: "ocr" });
  for (const prompt of ["a cat", 'a 5" pipe', 'a sign that says ""', 'a sign that says "  "', "it's 'single'"]) {
    assert.equal(wantedText(prompt), undefined);
    assert.equal(
      ocr.promptProblem?.(options, prompt, {}),
      `Expected a text in quotation marks in the prompts for the reward ocr but received ${JSON.stringify(prompt)}`,
    );
  }
  assert.equal(ocr.promptProblem?.(options, 'a sign "Stop"', {}), undefined);
});

test("the reward is flow_grpo's: 1 - min(distance, length) / length", () => {
  const cases: [read: string, wanted: string, reward: number][] = [
    ["Hello World", "Hello World", 1],
    ["HELLO\nWORLD\n", "Hello World", 1], // case, lines and spaces do not count
    ["the sign says: hello world!", "Hello World", 1], // contained, whatever is around it
    ["Hello Wold", "Hello World", 0.9], // one of ten characters is missing
    ["Hallo Wurld", "Hello World", 0.8],
    ["Sotp", "Stop", 0.5], // exchanged characters are two edits
    ["Stop!", "Stops", 0.8],
    ["", "Stop", 0],
    ["quite another and much longer text", "Stop", 0], // never below 0
    ["b", "😀b", 0.5], // characters, not UTF-16 units
  ];
  for (const [read, wanted, reward] of cases) {
    assert.ok(Math.abs(textReward(read, wanted) - reward) < 1e-12, `${read} for ${wanted}`);
  }
});
