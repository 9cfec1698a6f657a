// Config files: YAML and JSON, what is wrong with them and on which line, and the schema that editors read.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Ajv } from "ajv";
import { parse } from "yaml";
import { presets, readConfigFile, resolveConfig, type Config } from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { b2, warmB2 } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

function write(name: string, contents: string | Uint8Array): string {
  const file = join(folder, name);
  writeFileSync(file, contents);
  return file;
}

async function resolved(...args: string[]): Promise<Config> {
  const { code, stdout, stderr } = await warmB2("config", ...args);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as Config;
}

const MINE = `
# What others in this group train with.
seed: 7
sample: { steps: 10 }
interval: measured
prompts:
  train: [a cat, "no: a dog"]
train:
  learningRate: 1e-3
rewards:
  - brightness
  - name: jpeg-compressibility
    weight: 0.5
`;

describe("a config file", () => {
  it("is YAML or JSON, and several go on top of each other", async () => {
    const yaml = write("mine.yaml", MINE);
    const json = write("over.json", JSON.stringify({ $schema: "./any.json", seed: 9, train: { epochs: 3 } }));
    const one = await resolved("--config", yaml);
    assert.equal(one.train.learningRate, 1e-3);
    assert.deepEqual(one.prompts.train, ["a cat", "no: a dog"]);
    assert.deepEqual(
      one.rewards.map(({ name, weight }) => [name, weight]),
      [
        ["brightness", 1],
        ["jpeg-compressibility", 0.5],
      ],
    );
    const both = await resolved("--config", yaml, "--config", json, "--set", "train.epochs=4");
    assert.deepEqual([both.seed, both.sample.steps, both.train.epochs], [9, 10, 4]);
  });

  it("may have a byte order mark, and anchors", async () => {
    const marked = write("marked.json", '\ufeff{"stages": 3}');
    assert.equal((await resolved("--config", marked)).stages, 3);
    const anchors = write("anchors.yml", "prompts:\n  train: &list [a cat]\n  heldOut: *list\n");
    assert.deepEqual((await resolved("--config", anchors)).prompts.heldOut, ["a cat"]);
  });

  const depth = 100_000;
  let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (const [i, name] of [..."bcdefghi"].entries()) {
    bomb += `${name}: &${name} [${Array.from({ length: 9 }, () => `*${"abcdefgh"[i]!}`).join(",")}]\n`;
  }
  const wrong: readonly (readonly [name: string, contents: string | Uint8Array, message: RegExp])[] = [
    [
      "unknown.yaml",
      "seed: 1\ntrain:\n  lr: 1\n",
      /unknown\.yaml:3: Unknown key train\.lr; did you mean train\.learningRate\?/,
    ],
    [
      "impossible.json",
      '{\n  "sample": {\n    "steps": 0\n  }\n}',
      /impossible\.json:3: Expected at least 1 for sample\.steps but received 0/,
    ],
    [
      "item.yaml",
      "rewards:\n  - brightness\n  - name: brihgtness\n",
      /item\.yaml:3: .*brihgtness.*did you mean brightness/,
    ],
    ["conflict.yaml", "interval:\n  first: 5\n  last: 3\n", /conflict\.yaml: Expected interval\.first to be at most/],
    ["twice.yaml", "seed: 1\nstages: 2\nseed: 3\n", /twice\.yaml:3: Expected each key once but received it twice/],
    ["twice.json", '{"seed": 1,\n"seed": 2}', /twice\.json:2: Expected each key once but received it twice/],
    ["indented.yaml", "seed: 1\n   stages: 2\n", /indented\.yaml:1: Expected YAML but received: /],
    ["cut.json", '{"seed": 1,', /cut\.json: Expected JSON but received: /],
    ["yaml.json", "seed: 1", /yaml\.json: Expected JSON but received: /],
    ["list.yaml", "- 1\n", /list\.yaml: Expected keys and values but received \[1\]/],
    ["empty.yaml", "", /empty\.yaml: Expected keys and values but received nothing/],
    ["two.yaml", "seed: 1\n---\nseed: 2\n", /two\.yaml: Expected one YAML document but received several/],
    ["tag.yaml", "seed: !!js/function x\n", /tag\.yaml:1: Expected YAML but received: Unresolved tag/],
    ["endless.yaml", "seed: .inf\n", /endless\.yaml:1: Expected a finite number for seed but received Infinity/],
    ["utf16.yaml", Buffer.from("\ufeffseed: 1\n", "utf16le"), /utf16\.yaml: .*not UTF-8/],
    ["latin1.json", Buffer.from('{"prompts": {"train": ["caf\xe9"]}}', "latin1"), /latin1\.json: .*not UTF-8/],
    [
      "deep.json",
      '{"a":'.repeat(depth) + "1" + "}".repeat(depth),
      /deep\.json: Expected values nested at most 200 deep/,
    ],
    ["deep.yaml", "[".repeat(depth) + "]".repeat(depth), /deep\.yaml: Expected values nested at most 200 deep/],
    ["dashes.yaml", `${"- ".repeat(depth)}1`, /dashes\.yaml: Expected values nested at most 200 deep/],
    ["bomb.yaml", bomb, /bomb\.yaml: Expected YAML but received: .*alias/],
    ["circle.yaml", "seed: &a\n  b: *a\n", /circle\.yaml: Expected YAML but received: an alias inside/],
    ["nowhere.yaml", "seed: *b\n", /nowhere\.yaml: Expected YAML but received: .*alias.*b/],
  ];
  for (const [name, contents, message] of wrong) {
    it(`that is wrong is told in a sentence with its name: ${name}`, () => {
      const file = write(name, contents);
      assert.throws(
        () => resolveConfig(readConfigFile(file)),
        (error) => {
          assert.ok(error instanceof InputError, String(error));
          assert.match(error.message, message);
          assert.ok(error.message.startsWith(folder) && error.message.length < 500, error.message);
          return true;
        },
      );
    });
  }

  it("is named only where its value is the one that counts", async () => {
    const file = write("overridden.yaml", "sample: { steps: 0 }\n");
    assert.equal(
      (
        await resolved(
          "--config",
          file,
          "--set",
          "sample.steps=5",
          "--set",
          "interval.first=2",
          "--set",
          "interval.last=5",
        )
      ).sample.steps,
      5,
    );
    const { stderr } = await warmB2("config", "--config", file, "--set", "sample.steps=-1");
    assert.match(stderr, /^b2: Expected at least 1 for sample\.steps but received -1$/m);
  });

  it("is a pipe only where the shell makes it", async () => {
    const pipe = join(folder, "pipe.yaml");
    execFileSync("mkfifo", [pipe]);
    const { code, stderr } = await b2("config", "--config", pipe);
    assert.equal(code, 2);
    assert.match(stderr, /pipe\.yaml: Expected a file but received a pipe/);
    const b2Command = `"${process.execPath}" "${join(repository, "bin/b2.js")}"`;
    const printed = execFileSync("bash", ["-c", `${b2Command} config --config <(echo 'seed: 11')`], {
      encoding: "utf8",
    });
    assert.equal((JSON.parse(printed) as Config).seed, 11);
  });

  it("is read by b2 compare as well", async () => {
    const setting = write("bright.yaml", `stages: 3\nrewards: brightness\n`);
    const { code, stdout, stderr } = await warmB2("compare", join(folder, "comparison"), setting, "--dry-run");
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^bright +3 /m);
  });
});

describe("the schema of the config", () => {
  it("is published as b2 config --schema prints it", async () => {
    const { stdout } = await warmB2("config", "--schema");
    assert.equal(readFileSync(join(repository, "config.schema.json"), "utf8"), stdout);
  });

  it("accepts presets and files, in the short notations too, and finds mistakes", async () => {
    const { stdout } = await warmB2("config", "--schema");
    const schema = JSON.parse(stdout) as { properties: Record<string, { description?: string; default?: unknown }> };
    assert.match(schema.properties["seed"]!.description!, /random/);
    assert.equal(schema.properties["seed"]!.default, 42);
    const check = new Ajv({ strict: false, allErrors: true }).compile(schema);
    const accepted: unknown[] = [
      {},
      ...Object.values(presets),
      await resolved("--preset", "sd"),
      tinyValues,
      parse(MINE),
      { $schema: "x", rewards: "brightness" },
      { rewards: [{ name: "./mine.js", weight: 2 }, "clip:models/emoji-clip"] },
      { objective: { clipRange: 0.2 }, scheduler: { eta: 0.5 } },
    ];
    for (const config of accepted) assert.ok(check(config), JSON.stringify([config, check.errors]));
    const refused: unknown[] = [
      { sede: 1 },
      { sample: { steps: 0 } },
      { train: { learningRate: "fast" } },
      { interval: "sometimes" },
      { rewards: [{ name: "brihgtness" }] },
      { objective: { name: "ppo", clipRagne: 1 } },
    ];
    for (const config of refused) assert.equal(check(config), false, JSON.stringify(config));
  });

  it("is named in what b2 config --yaml prints, which is the config", async () => {
    const { code, stdout, stderr } = await warmB2("config", "--preset", "demo", "--yaml");
    assert.equal(code, 0, stderr);
    const [, schema] = /^# yaml-language-server: \$schema=(.+)\n/.exec(stdout) ?? [];
    assert.equal(schema, join(repository, "config.schema.json"));
    assert.deepEqual(parse(stdout), await resolved("--preset", "demo"));
    const again = write("again.yaml", stdout);
    assert.deepEqual(await resolved("--config", again), await resolved("--preset", "demo"));
  });
});
