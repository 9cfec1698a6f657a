// The reward ocr reads texts that were rendered here, with Tesseract and without a network.
import assert from "node:assert/strict";
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import sharp from "sharp";
import { optionsOf } from "../src/base/registry.js";
import { readImage, renderSvg } from "../src/images/index.js";
import { RewardResources, rewards, type Reward } from "../src/rewards/index.js";
import { stack, tidy, type Tensor } from "../src/torch/index.js";
import { b2, b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { b2Of, copyAddon, installInto } from "./support/installed.js";

const folder = temporaryFolder();

/** A picture of 256x128 with a text on it, as a file. */
function sign(name: string, text: string, [paper, ink]: readonly [string, string] = ["#fff", "#000"]): string {
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="128" height="64"><rect width="128" height="64" fill="${paper}"/><text x="64" y="38" font-size="18" text-anchor="middle" font-family="Inter" fill="${ink}">${text}</text></svg>`;
  const file = join(folder, name);
  writeFileSync(file, renderSvg(svg));
  return file;
}

const open = async (options: object = {}): Promise<Reward> => {
  const kind = rewards.get("ocr");
  return kind.open(optionsOf(kind, { name: "ocr", ...options }), new RewardResources("cpu"));
};

describe("ocr", () => {
  let images: Tensor;
  let reward: Reward;
  const wanted = [
    'a sign that says "Hello World"',
    'a sign that says "OPEN NOW"',
    'a sign "Hello World"',
    'a sign "Stop"',
  ];

  before(async () => {
    const files = [
      sign("hello.png", "Hello World"),
      sign("open.png", "OPEN NOW", ["#235", "#fe8"]),
      sign("wold.png", "Hello Wold"),
      sign("blank.png", ""),
    ];
    const read = await Promise.all(files.map(readImage));
    images = tidy(() => stack(read));
    for (const one of read) one.dispose();
    reward = await open();
  });
  after(() => {
    images.dispose();
    reward.dispose?.();
  });

  it("reads what is there: all of it, nine of ten characters, nothing", async () => {
    assert.deepEqual(Array.from(await reward.score(images, wanted)), [1, 1, 0.9, 0]);
  });

  it("does not remember what it read before", async () => {
    const backwards = tidy(() => images.flip([0]));
    const scores = Array.from(await reward.score(backwards, [...wanted].reverse()));
    assert.deepEqual(scores, [0, 0.9, 1, 1]);
    backwards.dispose();
  });

  it("reads several images at the same time, each for its own prompt", async () => {
    const two = await open({ readers: 2 });
    assert.deepEqual(Array.from(await two.score(images, wanted)), [1, 1, 0.9, 0]);
    two.dispose?.();
  });

  it("refuses a prompt without a text, before it reads", async () => {
    await assert.rejects(
      async () => reward.score(images, [...wanted.slice(1), "a cat"]),
      /Expected a text in quotation marks in the prompts for the reward ocr but received "a cat"/,
    );
  });

  it("stops when the work is interrupted", async () => {
    const signal = AbortSignal.abort();
    await assert.rejects(async () => reward.score(images, wanted, { signal }), { name: "Interrupted" });
  });
});

describe("ocr on the command line", () => {
  it("scores a folder and ends its threads, without a network", async () => {
    const photos = join(folder, "photos");
    mkdirSync(photos);
    await sharp(sign("jpeg.png", "Coffee")).jpeg().toFile(join(photos, "0.jpg"));
    writeFileSync(join(photos, "metadata.jsonl"), JSON.stringify({ file_name: "0.jpg", text: 'a cup "Coffee"' }));
    // A proxy that nobody answers on: whatever asks for a file elsewhere fails.
    const none = "http://127.0.0.1:9";
    const refuse = `data:text/javascript,${encodeURIComponent('globalThis.fetch = () => { throw new Error("asked the network"); };')}`;
    const { code, stdout, stderr } = await b2With(
      { HTTPS_PROXY: none, HTTP_PROXY: none, NODE_OPTIONS: `--import=${refuse}` },
      ...["score", photos, "--rewards", "ocr"],
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^0\.jpg +a cup "Coffee" +1\.0000$/m);
  });

  it("names a prompt without a text before it looks at images", async () => {
    const photos = join(folder, "untitled");
    mkdirSync(photos);
    writeFileSync(join(photos, "a-cat.png"), "damaged, which is not looked at yet");
    const { code, stderr } = await b2("score", photos, "--rewards", "ocr");
    assert.match(stderr, /^b2: Expected a text in quotation marks in the prompts .* but received "a cat" .*\n$/);
    assert.equal(code, 2);
  });

  it("says how to install what it needs, before anything is loaded, and that data is damaged", async () => {
    const project = installInto(temporaryFolder());
    copyAddon(project);
    const photos = join(project.folder, "photos");
    mkdirSync(photos);
    cpSync(join(folder, "hello.png"), join(photos, 'a sign "Hello".png'));
    const args = ["score", photos, "--rewards", "ocr"] as const;
    const missing = await b2Of(project, {}, ...args);
    assert.equal(
      missing.stderr,
      "b2: Expected tesseract.js and @tesseract.js-data/eng for the reward ocr but not installed: run npm install tesseract.js@7 @tesseract.js-data/eng@1\n",
    );
    assert.equal(missing.code, 2);

    const modules = join(project.folder, "node_modules");
    symlinkSync(join(repository, "node_modules/tesseract.js"), join(modules, "tesseract.js"));
    const data = join(modules, "@tesseract.js-data/eng");
    mkdirSync(join(data, "4.0.0_best_int"), { recursive: true });
    writeFileSync(join(data, "package.json"), "{}");
    const gone = await b2Of(project, {}, ...args);
    assert.match(gone.stderr, /^b2: Expected tesseract\.js and @tesseract\.js-data\/eng to load but: .*\n$/);
    assert.equal(gone.code, 2);
  });
});
