// What the command line says of faults: of a reward, of a plugin, of its own; and what it answers without libtorch.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { RunReader } from "../src/runs/index.js";
import { b2, b2With, warmB2 } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

function write(name: string, text: string): string {
  const file = join(folder, name);
  writeFileSync(file, text);
  return file;
}

const library = pathToFileURL(join(repository, "dist/src/index.js")).href;
const stack = /\n +at /;

describe("a fault in a reward's module", () => {
  it("ends the run with a sentence and code 2, and with --debug says where it is", async () => {
    const module = write("faulty.mjs", "export default function faulty(images) {\n  return images.pixels.length;\n}\n");
    const config = write("faulty.json", JSON.stringify({ ...tinyValues, rewards: [module] }));
    const { code, stderr } = await b2("run", join(folder, "faulty"), "--config", config);
    assert.equal(code, 2, stderr);
    assert.match(
      stderr,
      /^b2: Expected an answer from the reward faulty for 6 images from image 0, "[a-z ]+" \(stage-0000\/root-0000, image 0\) but it threw TypeError: Cannot read properties of undefined \(reading 'length'\)/m,
    );
    assert.doesNotMatch(stderr, stack);
    const debugged = await b2("--debug", "run", join(folder, "faulty"), "--config", config);
    assert.equal(debugged.code, 2);
    assert.match(debugged.stderr, /\ncaused by TypeError: [^]*\n +at .*faulty\.mjs:2/);
  });
});

describe("--debug", () => {
  const plugin = write("throws.mjs", 'throw new Error("the disk of the plugin is full");\n');

  it("prints the stack of bad input, and what caused it; so does B2_DEBUG=1", async () => {
    const args = ["config", "--plugin", plugin];
    const plain = await b2(...args);
    assert.equal(plain.code, 2);
    assert.match(plain.stderr, /^b2: \S+throws\.mjs: .*the disk of the plugin is full\n$/);
    const outcomes = [
      await b2("--debug", ...args),
      await b2(...args, "--debug"),
      await b2With({ B2_DEBUG: "1" }, ...args),
    ];
    for (const { code, stderr } of outcomes) {
      assert.equal(code, 2);
      assert.match(stderr, /^b2: InputError: \S+throws\.mjs: /);
      assert.match(stderr, /\n +at .*import-module/);
      assert.match(stderr, /\ncaused by Error: the disk of the plugin is full\n +at .*throws\.mjs:1/);
    }
  });
});

describe("without libtorch", () => {
  const without = { LIBTORCH: "/no/such/libtorch" };

  it("help, presets, config and what is wrong with one are told", async () => {
    for (const args of [["--help"], ["run", "--help"], ["presets"], ["config"], ["config", "--preset", "sd"]]) {
      const { code, stdout, stderr } = await b2With(without, ...args);
      assert.equal(code, 0, stderr);
      assert.ok(stdout.length > 100 && stderr === "", args.join(" "));
    }
    for (const args of [
      ["config", "--set", "branch.cuont=2"],
      ["run", join(folder, "wrong"), "--set", "branch.cuont=2"],
    ]) {
      const { code, stderr } = await b2With(without, ...args);
      assert.equal(code, 2);
      assert.match(stderr, /^b2: .*branch\.cuont/);
    }
  });

  it("but no image is made", async () => {
    const { code, stderr } = await b2With(without, "generate", "a cat", "--out", join(folder, "none"));
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^b2: The native addon is not built for the libtorch that LIBTORCH names, \/no\/such\/libtorch\./,
    );
  });
});

describe("--plugin", () => {
  const registering = (name: string): string =>
    `import { registerReward, z } from ${JSON.stringify(library)};
    registerReward({
      name: "${name}",
      summary: "The mean of the green channel",
      cost: "nothing",
      options: z.object({ scale: z.number().default(1).describe("A factor.") }),
      open: ({ scale }) => ({
        score: (images, prompts) => prompts.map((_, i) => scale * images.select(0, i).select(0, 1).mean().item()),
      }),
    });
    `;
  const refused = async (plugin: string, message: RegExp): Promise<void> => {
    const { code, stdout, stderr } = await warmB2("config", "--plugin", plugin);
    assert.equal(code, 2, stderr);
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, stack);
  };

  it("is refused in a sentence where there is no such file", () =>
    refused(
      join(folder, "absent.mjs"),
      /^b2: Expected a module for --plugin but received \S+absent\.mjs, .*does not exist\n$/,
    ));

  it("is refused in a sentence where it registers nothing", () =>
    refused(
      write("idle.mjs", "export default 1;\n"),
      /^b2: Expected a plugin that registers .* but \S+idle\.mjs .*\n$/,
    ));

  it("is refused in a sentence where it throws", () =>
    refused(write("broken.mjs", 'throw new TypeError("no such luck");\n'), /^b2: \S+broken\.mjs: .*: no such luck\n$/));

  it("is refused in a sentence where its name is taken", () =>
    refused(
      write("taken.mjs", registering("brightness")),
      /^b2: \S+taken\.mjs: .*a new name for a reward but received brightness, which is taken\n$/,
    ));

  const typed = write("typed.mts", `const factor: number = 1;\nexport const f = factor;\n${registering("typed")}`);
  const strips = Boolean((process.features as { typescript?: unknown }).typescript);

  it("in TypeScript says what to do, where Node does not strip types", { skip: strips }, () =>
    refused(typed, /^b2: Expected a JavaScript module .*typed\.mts: Node \S+ does not strip types\. Use Node .*tsc\n$/),
  );

  it("in TypeScript works where Node strips types", { skip: !strips }, async () => {
    const { code, stdout, stderr } = await b2("config", "--plugin", typed, "--set", "rewards=typed");
    assert.equal(code, 0, stderr);
    assert.equal((JSON.parse(stdout) as { rewards: { name: string }[] }).rewards[0]!.name, "typed");
  });

  it("is kept in the run, which then needs none, nor does what uses it", async () => {
    const plugin = write("green.mjs", registering("green"));
    const run = join(folder, "green");
    const values = { ...tinyValues, stages: 2, rewards: [{ name: "green", scale: 2 }] };
    const config = write("green.json", JSON.stringify(values));
    const unknown = await b2("sample", run, "--config", config);
    assert.equal(unknown.code, 2);
    assert.match(unknown.stderr, /green/);
    assert.ok(!existsSync(run));

    const begun = await b2("sample", run, "--config", config, "--plugin", plugin);
    assert.equal(begun.code, 0, begun.stderr);
    assert.deepEqual(new RunReader(run).config()["plugins"], [plugin]);
    const rest = await b2("run", run, "--set", "record.images=0");
    assert.equal(rest.code, 0, rest.stderr);
    assert.deepEqual(new RunReader(run).finishedStages(), [0, 1]);
    assert.deepEqual(new RunReader(run).config()["plugins"], [plugin]);

    const out = join(folder, "green-images");
    mkdirSync(out);
    const generated = await b2("generate", "a cat", "--lora", run, "--out", out);
    assert.equal(generated.code, 0, generated.stderr);
    assert.deepEqual(readdirSync(out), ["00-0-a-cat.png", "metadata.jsonl"]);
  });
});
