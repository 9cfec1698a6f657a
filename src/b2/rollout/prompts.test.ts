import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../../test/support/folders.js";
import { resolveConfig } from "../config/resolve.js";
import { promptListNames, promptsOfStage, readPromptLists, readPrompts, thinOut } from "./prompts.js";

const folder = temporaryFolder();
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

test("prompts are read from lists, JSON, text and the embedded world", () => {
  assert.deepEqual(readPrompts(["a", "b"]), ["a", "b"]);
  assert.deepEqual(readPrompts(file("p.json", '["a cat", "a dog"]')), ["a cat", "a dog"]);
  assert.deepEqual(readPrompts(file("p.txt", "a cat\r\n\n  a dog \n")), ["a cat", "a dog"]);
  const all = readPrompts("emoji:train");
  const parts = ["activity", "colour", "relation", "combined"].flatMap((template) =>
    readPrompts(`emoji:train/${template}`),
  );
  assert.deepEqual(all, parts);
  const heldOut = new Set(readPrompts("emoji:held-out"));
  assert.ok(all.every((prompt) => !heldOut.has(prompt)));
});

test("lines of JSON say more of a prompt than its text, which rewards are told", () => {
  const count = { tag: "counting", include: [{ class: "cat", count: 2 }] };
  const lines = [{ prompt: "two cats", ...count }, { prompt: "a dog" }, { prompt: "two cats", ...count }];
  const train = file("geneval.jsonl", lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  assert.deepEqual(readPrompts(train), ["two cats", "a dog", "two cats"]);
  const { training, metadata } = readPromptLists({ prompts: { train, heldOut: null, order: "random", fixed: null } });
  assert.deepEqual(training, ["two cats", "a dog", "two cats"]);
  assert.deepEqual([...metadata!], [["two cats", count]]);
  const twice = file("twice.jsonl", '{"prompt":"a cat","tag":"a"}\n{"prompt":"a cat","tag":"b"}\n');
  assert.throws(
    () => readPromptLists({ prompts: { train: twice, heldOut: null, order: "random", fixed: null } }),
    /one description of each prompt but received two of "a cat"/,
  );
  assert.throws(
    () => readPrompts(file("text.jsonl", '{"text":"a cat"}\n')),
    /text\.jsonl: Expected a text for prompt in line 1/,
  );
  assert.throws(() => readPrompts(file("broken.jsonl", '{"prompt":"a"}\nnot json\n')), /line 2 of \S+broken\.jsonl/);
});

test("prompt files that cannot be are refused", () => {
  assert.throws(() => readPrompts(join(folder, "none.txt")), /none.txt: Expected a readable text file/);
  assert.throws(() => readPrompts(file("empty.txt", "\n\n")), /Expected at least one prompt/);
  assert.throws(() => readPrompts(file("bad.json", '["a"')), /bad.json: Expected JSON/);
  assert.throws(() => readPrompts(file("object.json", '{"a": 1}')), /object.json: Expected a list/);
  assert.throws(() => readPrompts(file("mixed.json", '["a", 3]')), /received 3 at position 1/);
  // UTF-16, as PowerShell writes it.
  writeFileSync(join(folder, "utf16.txt"), Buffer.from("\uFEFFa cat", "utf16le"));
  assert.throws(() => readPrompts(join(folder, "utf16.txt")), /utf16.txt: .* it is not UTF-8 text/);
  assert.throws(() => readPrompts("emoji:test"), /Expected emoji:train, .*but received "emoji:test"/);
});

test("the paper's lists have its sizes, and nothing that trains is tested", () => {
  const sizes = { activity: [45, 90], colour: [40, 40], relation: [40, 30] };
  for (const [template, [training, testing]] of Object.entries(sizes)) {
    const [train, held] = ["train", "test"].map((name) => readPrompts(`paper:${template}/${name}`)) as [
      string[],
      string[],
    ];
    assert.deepEqual([train.length, held.length], [training, testing], template);
    assert.equal(new Set([...train, ...held]).size, training! + testing!, template);
  }
  assert.equal(readPrompts("paper:train").length, 125);
  assert.equal(readPrompts("paper:test").length, 160);
  const animals = readPrompts("ddpo:animals");
  assert.equal(new Set(animals).size, 45);
  const animalOf = (prompt: string): string =>
    /^a (\w+) (riding a bike|playing chess|washing dishes)$/.exec(prompt)![1]!;
  for (const list of ["paper:activity/train", "paper:activity/test"]) {
    assert.deepEqual(new Set(readPrompts(list).map(animalOf)), new Set(animals), list);
  }
});

test("every list by name can be read, and a name that is none is answered with them", () => {
  for (const name of promptListNames()) assert.ok(readPrompts(name).length > 0, name);
  assert.throws(
    () => readPrompts("paper:color/train"),
    /paper:relation\/test, ddpo:animals for the name .* "paper:color\/train"; did you mean paper:colour\/train\?/,
  );
});

test("a part of a list is named as in Hugging Face's datasets", () => {
  const all = readPrompts("emoji:train/combined");
  assert.deepEqual(readPrompts("emoji:train/combined[:72]"), all.slice(0, 72));
  assert.deepEqual(readPrompts("emoji:train/combined[72:75]"), all.slice(72, 75));
  assert.deepEqual(readPrompts("ddpo:animals[40:]"), readPrompts("ddpo:animals").slice(40));
  assert.throws(
    () => readPrompts("ddpo:animals[45:]"),
    /a part of the 45 prompts of ddpo:animals but .*"\w+:\w+\[45:\]"/,
  );
  assert.throws(() => readPrompts("ddpo:animal[:3]"), /received "ddpo:animal"; did you mean ddpo:animals\?/);
  assert.throws(() => readPrompts("ddpo:animals[-3:]"), /received "ddpo:animals\[-3:\]"/);
});

test("roots get their prompts at random, in turn, or one fixed", () => {
  const list = ["a", "b", "c"];
  const stage = (order: string, index: number, rootsPerStage = 4, rootsPerPrompt = 1): string[] => {
    const sample = { rootsPerStage, rootsPerPrompt };
    return promptsOfStage(list, index, resolveConfig({ prompts: { order, fixed: "z" }, sample }));
  };
  assert.deepEqual(stage("in-turn", 0), ["a", "b", "c", "a"]);
  assert.deepEqual(stage("in-turn", 1), ["b", "c", "a", "b"]);
  assert.deepEqual(stage("in-turn", 0, 4, 2), ["a", "a", "b", "b"]);
  assert.deepEqual(stage("in-turn", 1, 4, 2), ["c", "c", "a", "a"]);
  assert.deepEqual(stage("in-turn", 1, 5, 2), ["a", "a", "b", "b", "c"]);
  assert.deepEqual(stage("fixed", 1), ["z", "z", "z", "z"]);
  const random = stage("random", 0, 300);
  for (const prompt of list) assert.ok(random.filter((p) => p === prompt).length > 70);
  assert.deepEqual(stage("random", 0, 10), random.slice(0, 10));
  assert.deepEqual(
    stage("random", 0, 9, 3),
    random.slice(0, 3).flatMap((prompt) => [prompt, prompt, prompt]),
  );
  assert.notDeepEqual(stage("random", 1, 300), random);
});

test("a list is thinned out evenly", () => {
  assert.deepEqual(thinOut(["a", "b", "c", "d"], 2), ["a", "c"]);
  assert.deepEqual(thinOut(["a"], 2), ["a"]);
});
