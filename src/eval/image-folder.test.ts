// Which images a folder has, and where their prompts come from.
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import { openPromptsFile, promptOfName, readImageFolder } from "./image-folder.js";

/** A folder with files of these names; their contents are not looked at here. */
function folderOf(names: readonly string[], files: Readonly<Record<string, string>> = {}): string {
  const folder = temporaryFolder();
  for (const name of names) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), "");
  }
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
  return folder;
}

const jsonLines = (...lines: readonly object[]): string => lines.map((line) => JSON.stringify(line)).join("\n");

test("a name is a prompt where it has words", () => {
  const names: [name: string, prompt: string | undefined][] = [
    ["a-cat-on-a-mat_0003.png", "a cat on a mat"],
    ["a_cat_on_a_mat_12.webp", "a cat on a mat"],
    ["00-3-a-cat-riding-a-bike.png", "a cat riding a bike"],
    ["0012-0-a-cat.png", "a cat"],
    ["A cat, sleeping.jpeg", "A cat, sleeping"],
    ["a-cat-1.png", "a cat 1"],
    ["2-cats.png", "2 cats"],
    ["eine-katze-für-zoë.jpg", "eine katze für zoë"],
    ["一只猫_0001.png", "一只猫"],
    ["0001.png", undefined],
    ["0007-2.png", undefined],
    ["00-3-.png", undefined],
    ["___.png", undefined],
  ];
  for (const [name, prompt] of names) assert.equal(promptOfName(name), prompt, name);
});

describe("a folder of images", () => {
  it("is in the order of its names, numbers as numbers, without what is no image", () => {
    const folder = folderOf(["cat_10.png", "cat_2.PNG", "ant_1.jpeg", "bee.webp", ".cat_0.png", "notes.txt", "a.gif"]);
    mkdirSync(join(folder, "deeper"));
    writeFileSync(join(folder, "deeper/owl.png"), "");
    const { images, prompts, missing } = readImageFolder(folder);
    assert.deepEqual(
      images.map(({ name, prompt }) => [name, prompt]),
      [["ant_1.jpeg", "ant"], ["bee.webp", "bee"], ["cat_2.PNG", "cat"], ["cat_10.png", "cat"]], // prettier-ignore
    );
    assert.deepEqual([prompts, missing], [undefined, []]);
  });

  it("takes prompts from metadata.jsonl; other keys are metadata", () => {
    const folder = folderOf(["0.png", "1.png", "in/2.png"], {
      "metadata.jsonl": `${jsonLines({ file_name: "1.png", text: " a dog " }, { file_name: "in/2.png", prompt: "a", text: "b" })}\n\n${jsonLines({ file_name: "./0.png", prompt: "two cats", include: [{ class: "cat", count: 2 }] })}\r\n`,
    });
    const { images, prompts } = readImageFolder(folder);
    assert.equal(prompts, join(folder, "metadata.jsonl"));
    assert.deepEqual(images, [
      { name: "0.png", prompt: "two cats", metadata: { include: [{ class: "cat", count: 2 }] } },
      { name: "1.png", prompt: "a dog", metadata: {} },
      { name: "in/2.png", prompt: "a", metadata: { text: "b" } },
    ]);
  });

  it("takes them from a file that is named instead, which may know more images", () => {
    const lines = jsonLines({ file_name: "0.png", text: "a cat" }, { file_name: "9.png", text: "a dog" });
    const folder = folderOf(["0.png"], { "metadata.jsonl": "not read" });
    const file = join(temporaryFolder(), "prompts.jsonl");
    writeFileSync(file, lines);
    const { images, missing } = readImageFolder(folder, file);
    assert.deepEqual([images[0]!.prompt, missing], ["a cat", ["9.png"]]);
  });

  it("of a run's stage has the prompts of its samples", () => {
    const stage = folderOf(["images/0000-0.png", "images/0001-1.png"], {
      "samples.jsonl": jsonLines(
        { root: 0, branch: 0, prompt: "a cat", image: "images/0000-0.png" },
        { root: 0, branch: 1, prompt: "a cat" },
        { root: 1, branch: 1, prompt: "a dog", image: "images/0001-1.png" },
      ),
    });
    const { images } = readImageFolder(join(stage, "images"));
    assert.deepEqual(
      images.map(({ name, prompt }) => [name, prompt]),
      [["0000-0.png", "a cat"], ["0001-1.png", "a dog"]], // prettier-ignore
    );
  });

  it("is refused with a sentence where something is missing or wrong", () => {
    const line = (value: object): string => folderOf(["0.png"], { "metadata.jsonl": jsonLines(value) });
    const wrong: [folder: string, message: RegExp][] = [
      [join(temporaryFolder(), "none"), /Expected a folder of images but received .*none, which is nothing there/],
      [join(folderOf(["0.png"]), "0.png"), /Expected a folder of images but received .*0\.png, which is a file/],
      [folderOf(["notes.txt"]), /Expected images \(\.png, \.jpg, \.jpeg, \.webp\) in .* but received none/],
      [folderOf(["a-cat.png", "0.png", "1.png"]), /Expected a prompt for .*0\.png but received none in its name, nor is there a metadata\.jsonl in the folder, nor for 1 more/], // prettier-ignore
      [folderOf(["0.png", "cat.png"], { "metadata.jsonl": jsonLines({ file_name: "0.png", text: "a" }) }), /Expected a prompt for .*cat\.png but received none in .*metadata\.jsonl$/], // prettier-ignore
      [folderOf(["cat.png"], { "metadata.csv": "file_name,text" }), /as metadata\.jsonl but received metadata\.csv/],
      [folderOf(["0.png"], { "metadata.jsonl": "{" }), /line 1 of .*metadata\.jsonl: Expected JSON/],
      [folderOf(["0.png"], { "metadata.jsonl": "\n[]" }), /line 2 of .*metadata\.jsonl: Expected a JSON object/],
      [line({ text: "a" }), /line 1 of .*: Expected the name of an image for file_name but received nothing/],
      [line({ file_name: "0.png" }), /line 1 of .*: Expected a text for prompt or text but received nothing/],
      [line({ file_name: "0.png", prompt: " " }), /Expected a text for prompt or text but received " "/],
      [line({ file_name: "0.png", prompt: 7, text: "a" }), /Expected a text for prompt or text but received 7/],
      [
        line({ file_name: "../0.png", text: "a" }),
        /Expected an image inside .* for file_name but received "\.\.\/0\.png"/,
      ],
      [line({ file_name: "/etc/cat.png", text: "a" }), /Expected an image inside .* but received "\/etc\/cat\.png"/],
      [folderOf(["0.png"], { "metadata.jsonl": jsonLines({ file_name: "0.png", text: "a" }, { file_name: "./0.png", text: "b" }) }), /line 2 of .*: Expected one line for 0\.png but received a second/], // prettier-ignore
    ];
    for (const [folder, message] of wrong) assert.throws(() => readImageFolder(folder), message);
  });
});

test("images that are made are added to the file of prompts, in place of their earlier lines", () => {
  const folder = temporaryFolder();
  const made = (name: string, prompt: string, metadata: object = {}) => ({ name, prompt, metadata: { ...metadata } });
  openPromptsFile(folder)([made("0.png", 'a sign "Stop"', { tag: "text" }), made("1.png", "a dog")]);
  openPromptsFile(folder)([made("1.png", "a cat")]);
  for (const name of ["0.png", "1.png"]) writeFileSync(join(folder, name), "");
  assert.deepEqual(readImageFolder(folder).images, [
    made("0.png", 'a sign "Stop"', { tag: "text" }),
    made("1.png", "a cat"),
  ]);
  writeFileSync(join(folder, "metadata.jsonl"), "damaged");
  assert.throws(() => openPromptsFile(folder), /line 1 of .*metadata\.jsonl: Expected JSON/);
});
