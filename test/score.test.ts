// b2 score: folders of images as people have them, and what is wrong with images, prompts and rewards.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import sharp from "sharp";
import { b2, warmB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const at = (...path: string[]): string => join(folder, ...path);

interface Written {
  readonly promptsFrom: string;
  readonly rewards: { readonly label: string; readonly mean: number; readonly withinPrompt: number | null }[];
  readonly prompts: { readonly prompt: string; readonly images: number }[];
  readonly images: {
    readonly name: string;
    readonly prompt: string;
    readonly metadata: Readonly<Record<string, unknown>>;
    readonly rewards: Readonly<Record<string, number>>;
    readonly total: number;
  }[];
}

const written = (file: string): Written => JSON.parse(readFileSync(file, "utf8")) as Written;

function file(name: string, text: string): string {
  writeFileSync(at(name), text);
  return at(name);
}

/** Writes an image of one grey into a folder. */
async function grey(path: string, level: number, width = 16, height = 16): Promise<void> {
  mkdirSync(join(path, ".."), { recursive: true });
  await sharp({ create: { width, height, channels: 3, background: { r: level, g: level, b: level } } }).toFile(path);
}

/** Runs b2 score and gives what --out has. */
async function scored(name: string, ...args: string[]): Promise<Written & { stdout: string; stderr: string }> {
  const out = at(`${name}.json`);
  const { code, stdout, stderr } = await warmB2("score", ...args, "--out", out);
  assert.equal(code, 0, stderr);
  return { ...written(out), stdout, stderr };
}

/** A reward that gives the length of the prompt. */
const lengths = file("lengths.mjs", "export default (images, prompts) => prompts.map((p) => p.length);");

before(async () => {
  await grey(at("mixed/white-wall_0001.png"), 255);
  await grey(at("mixed/black-wall_0002.jpg"), 0, 24, 16);
  await grey(at("mixed/grey-wall_0010.webp"), 128, 20, 20);
  await grey(at("mixed/white-wall_0003.png"), 255);
});

describe("b2 score", { concurrency: 2 }, () => {
  it("scores PNG, JPEG and WebP of any sizes, in the order of their names", async () => {
    const { images, promptsFrom, rewards, stdout } = await scored("mixed", at("mixed"), "--rewards", "brightness");
    assert.deepEqual(
      images.map(({ name, prompt, rewards }) => [name, prompt, rewards["brightness"]!.toFixed(1)]),
      [
        ["black-wall_0002.jpg", "black wall", "0.0"],
        ["grey-wall_0010.webp", "grey wall", "0.5"],
        ["white-wall_0001.png", "white wall", "1.0"],
        ["white-wall_0003.png", "white wall", "1.0"],
      ],
    );
    assert.equal(promptsFrom, "names");
    assert.ok(Math.abs(rewards[0]!.mean - (2 + 128 / 255) / 4) < 0.01);
    assert.equal(rewards[0]!.withinPrompt, 0);
    assert.match(stdout, /^image +prompt +brightness\n-/);
    assert.match(stdout, /^white-wall_0003\.png +white wall +1\.0000$/m);
    assert.match(
      stdout,
      /^brightness +0\.62\d\d .* 0\.0000 \(black-wall_0002\.jpg\) +1\.0000 \(white-wall_0001\.png\)/m,
    );
    assert.match(stdout, /^brightness has one value for all images of a prompt/m);
  });

  it("asks for batches of one size", async () => {
    const log = at("shapes.log");
    const module = file(
      "shapes.mjs",
      `import { appendFileSync } from "node:fs";
       export default (images, prompts) => {
         appendFileSync(${JSON.stringify(log)}, images.shape.join("x") + " " + prompts.join() + "\\n");
         return prompts.map(() => 0);
       };`,
    );
    await scored("shapes", at("mixed"), "--rewards", module, "--set", "sample.decodeBatchSize=8");
    assert.deepEqual(readFileSync(log, "utf8").trim().split("\n").sort(), [
      "1x3x16x24 black wall",
      "1x3x20x20 grey wall",
      "2x3x16x16 white wall,white wall",
    ]);
    await scored("shapes", at("mixed"), "--rewards", module, "--set", "sample.decodeBatchSize=1");
    assert.equal(readFileSync(log, "utf8").trim().split("\n").length, 3 + 4);
  });

  it("gives rewards what is known of each image, and asks judges, which are no part of the sum", async () => {
    const log = at("calls.log");
    const module = file(
      "calls.mjs",
      `import { appendFileSync } from "node:fs";
       const write = (value) => appendFileSync(${JSON.stringify(log)}, JSON.stringify(value) + "\\n");
       export default {
         score: (images, prompts, { keys, metadata }) => {
           prompts.forEach((prompt, i) => write([prompt, keys[i], metadata[i]]));
           return prompts.map(() => 7);
         },
         complete: () => write("complete"),
       };`,
    );
    const prompts = file(
      "mixed.jsonl",
      ["black-wall_0002.jpg", "grey-wall_0010.webp", "white-wall_0001.png", "white-wall_0003.png"]
        .map((name, i) => JSON.stringify({ file_name: name, prompt: i === 1 ? "grey" : "wall", objects: [i] }))
        .join("\n"),
    );
    const rewards = JSON.stringify(["brightness", { name: module, role: "judge" }]);
    const { images, stdout } = await scored("judge", at("mixed"), "--rewards", rewards, "--prompts", prompts);
    assert.deepEqual(
      images.map(({ rewards, total }) => [rewards["calls"], total === rewards["brightness"]]),
      images.map(() => [7, true]),
    );
    assert.match(stdout, /^image +prompt +brightness +judge calls$/m);
    const lines = readFileSync(log, "utf8").trim().split("\n");
    assert.deepEqual(
      lines.map((line) => JSON.parse(line) as unknown),
      [
        ["wall", { group: "prompt-0000", index: 0 }, { objects: [0] }],
        ["grey", { group: "prompt-0001", index: 0 }, { objects: [1] }],
        ["wall", { group: "prompt-0000", index: 1 }, { objects: [2] }],
        ["wall", { group: "prompt-0000", index: 2 }, { objects: [3] }],
        "complete",
      ],
    );
  });

  it("takes several rewards with weights, and adds them up", async () => {
    const { images, rewards, stdout } = await scored(
      "several",
      ...[at("mixed"), "--rewards", "brightness", "--rewards", lengths, "--set", "rewards.1.weight=-0.5"],
    );
    assert.deepEqual(
      rewards.map(({ label }) => label),
      ["brightness", "lengths", "weighted sum"],
    );
    const [black] = images;
    assert.deepEqual([black!.rewards["lengths"], black!.total], [10, -5]);
    assert.match(stdout, /^image +prompt +brightness +lengths +weighted sum$/m);
    const list = JSON.stringify([{ name: "brightness", label: "light", weight: 3 }]);
    const [, , white] = (await scored("list", at("mixed"), "--rewards", list)).images;
    assert.deepEqual([white!.rewards, white!.total], [{ light: 1 }, 3]);
  });

  it("sums up many images: the prompts, the best and the worst", async () => {
    const lines: object[] = [];
    for (let i = 0; i < 36; i++) {
      await grey(at("many", `${i}.png`), i * 7, 4, 4);
      lines.push({ file_name: `${i}.png`, text: i % 3 === 0 ? "a cat" : "a dog" });
    }
    file("many/metadata.jsonl", lines.map((line) => JSON.stringify(line)).join("\n"));
    const { stdout, prompts } = await scored("many", at("many"), "--rewards", "brightness");
    assert.deepEqual(
      prompts.map(({ prompt, images }) => [prompt, images]),
      [["a cat", 12], ["a dog", 24]], // prettier-ignore
    );
    assert.match(stdout, /^prompt +images +brightness\n.*\na cat +12 +0\.\d+\na dog +24/);
    assert.match(stdout, /^best\nimage .*\n.*\n35\.png .*\n34\.png /m);
    assert.match(stdout, /^worst\nimage .*\n.*\n0\.png .*\n1\.png /m);
    assert.doesNotMatch(stdout, /^17\.png/m);
  });

  it("reads what b2 generate and b2 run wrote, to the letter", async () => {
    const config = file("tiny.json", JSON.stringify({ ...tinyValues, stages: 1, rewards: ["brightness"] }));
    const prompt = 'A sign: "Stop", please!';
    const list = file("list.jsonl", JSON.stringify({ prompt: "a cat", tag: "animal" }));
    const words = ["generate", prompt, "--prompts", list];
    const made = await warmB2(...words, "--config", config, "--count", "2", "--out", at("made"));
    assert.equal(made.code, 0, made.stderr);
    const { images, promptsFrom } = await scored("made", at("made"), "--rewards", lengths);
    assert.deepEqual(
      images.map((image) => [image.prompt, image.total]),
      [[prompt, 23], [prompt, 23], ["a cat", 5], ["a cat", 5]], // prettier-ignore
    );
    assert.equal(promptsFrom, at("made/metadata.jsonl"));
    assert.deepEqual(
      images.map(({ metadata }) => metadata),
      [{}, {}, { tag: "animal" }, { tag: "animal" }],
    );

    const run = await warmB2("run", at("run"), "--config", config);
    assert.equal(run.code, 0, run.stderr);
    const samples = readFileSync(at("run/stages/0000/samples.jsonl"), "utf8").trim().split("\n");
    const kept = samples
      .map((line) => JSON.parse(line) as { image?: string; prompt: string; reward: number })
      .filter(({ image }) => image !== undefined);
    const again = await scored("run", at("run/stages/0000/images"), "--config", config);
    assert.deepEqual(
      again.images.map((image) => [`images/${image.name}`, image.prompt]),
      kept.map(({ image, prompt }) => [image, prompt]),
    );
    // What the run saw, up to the rounding of pixels in PNG files.
    again.images.forEach(({ total }, i) => assert.ok(Math.abs(total - kept[i]!.reward) < 1 / 255));
  });

  it("tells events, and is quiet", async () => {
    const { code, stdout, stderr } = await warmB2("score", at("mixed"), "--rewards", "brightness", "--json", "--quiet");
    assert.deepEqual([code, stderr], [0, ""]);
    const events = stdout.trim().split("\n").map((line) => JSON.parse(line) as Record<string, unknown>); // prettier-ignore
    assert.deepEqual([events[0]!["type"], events[0]!["command"], events[0]!["images"]], ["started", "score", 4]);
    const last = events.at(-1)!;
    assert.deepEqual([last["type"], last["files"]], ["finished", []]);
    assert.equal((last["rewards"] as Written["rewards"])[0]!.label, "brightness");
  });

  it("warns of the embedded model's CLIP, and of lines without an image", async () => {
    await grey(at("photo/a.png"), 90, 64, 64);
    const prompts = file("photo.jsonl", '{"file_name":"a.png","text":"a cat"}\n{"file_name":"b.png","text":"a dog"}\n');
    const { stderr } = await scored("photo", at("photo"), "--rewards", "clip-score", "--prompts", prompts);
    assert.match(stderr, /warning: .*photo is scored with models\/emoji-clip/);
    assert.match(stderr, /photo\.jsonl names images that are not in .*photo: 1, the first is b\.png/);
  });
});

describe("b2 score refuses", { concurrency: 2 }, () => {
  const refused = (message: RegExp, ...args: string[]): Promise<void> => refusedBy(warmB2, [message], ...args);

  async function refusedBy(command: typeof b2, messages: readonly RegExp[], ...args: string[]): Promise<void> {
    const out = file(`kept-${Math.random()}.json`, "kept");
    const { code, stdout, stderr } = await command("score", ...args, "--out", out);
    for (const message of messages) assert.match(stderr, message);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "");
    assert.doesNotMatch(stderr, /\n +at /);
    assert.equal(readFileSync(out, "utf8"), "kept");
  }

  it("damaged images, all of them by name, before anything is scored", async () => {
    await grey(at("damaged/a-wall.png"), 10);
    await grey(at("damaged/b-wall.jpg"), 10, 200, 200);
    const whole = readFileSync(at("damaged/b-wall.jpg"));
    writeFileSync(at("damaged/b-wall.jpg"), whole.subarray(0, whole.length - 40));
    file("damaged/c-wall.webp", "no image");
    await refused(
      /^b2: .*b-wall\.jpg: Expected an image but received: .*\n.*c-wall\.webp: Expected an image but received: .*\n$/m,
      ...[at("damaged"), "--rewards", file("never.mjs", 'export default () => { throw new Error("asked"); };')],
    );
  });

  it("a folder without images, and an image without a prompt", async () => {
    mkdirSync(at("empty"));
    await refused(/^b2: Expected images .* in .*empty but received none\n$/, at("empty"), "--rewards", "brightness");
    await grey(at("numbered/0001.png"), 10);
    await refused(/^b2: Expected a prompt for .*0001\.png but/, at("numbered"), "--rewards", "brightness");
  });

  it("what is no reward, before images are read", async () => {
    await refused(/^b2: Expected --rewards, or --preset, --config or --set with rewards/, at("mixed"));
    await refused(/did you mean brightness\?/, at("mixed"), "--rewards", "brightnes");
    await refused(/does not exist/, at("mixed"), "--rewards", "./none.mjs");
    const { code, stderr } = await warmB2("score", at("mixed"), "--rewards", "brightness", "--quiet");
    assert.deepEqual([code, /Expected --out or --json with --quiet/.test(stderr)], [2, true]);
  });

  it("a reward that ends the process, by name", async () => {
    const module = file("exits.mjs", "export default () => process.exit(0);");
    await refusedBy(
      b2,
      [/^b2: Expected an answer from the reward exits for image 0, "black wall" .* but it ended the process\n$/],
      ...[at("mixed"), "--rewards", module],
    );
  });

  const bad: readonly [name: string, code: string, message: RegExp][] = [
    ["count", "() => [1, 2, 3]", /Expected 1 numbers, one per image, from the reward count but received 3/],
    ["text", '() => ["good"]', /Expected a finite number from the reward text but received "good" for image 0/],
    ["nan", "() => [NaN]", /Expected a finite number from the reward nan but received NaN for image 0, "black wall"/],
    ["large", "() => [1e308]", /Expected a number of at most 1e30 from the reward large but received 1e\+308/],
    ["never", "() => new Promise(() => undefined)", /the reward never .*nothing can settle/],
    [
      "throws",
      '() => { throw new Error("no credits"); }',
      /from the reward throws for image 0, "black wall" .* but it threw Error: no credits/,
    ],
    ["nothing", "() => undefined", /Expected 1 numbers, one per image, from the reward nothing but received undefined/],
  ];
  for (const [name, code, message] of bad) {
    it(`a reward that gives ${name}, with the image's file`, async () => {
      const module = file(`${name}.mjs`, `export default ${code};`);
      // That nothing can settle a promise any more is seen where nothing else keeps the process.
      const command = name === "never" ? b2 : warmB2;
      const where = /\(scoring .*mixed\/black-wall_0002\.jpg\)/;
      await refusedBy(command, [message, where], at("mixed"), "--rewards", module);
    });
  }
});
