// Plugins, presets and the dry run from the command line; and that what computes nothing loads no libtorch.
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { b2, b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const file = (name: string, text: string): string => {
  const path = join(temporaryFolder(), name);
  writeFileSync(path, text);
  return path;
};
const index = JSON.stringify(join(repository, "dist/src/index.js"));
const registering = (name: string): string => `
  import { registerReward, z } from ${index};
  registerReward({
    name: "${name}",
    summary: "Always the same",
    cost: "nothing",
    options: z.object({ value: z.number().default(1).describe("What it gives.") }),
    open: ({ value }) => ({ score: (images, prompts) => prompts.map((_, i) => value * i) }),
  });`;

test("a plugin is loaded before the config is read, kept in it, and documented", async () => {
  const plugin = file("constant.mjs", registering("constant"));
  const config = file("config.json", JSON.stringify({ ...tinyValues, rewards: ["constant"], stages: 1 }));
  const run = join(temporaryFolder(), "run");
  const refused = await b2("run", run, "--config", config);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /for the reward but received "constant"/);

  const done = await b2("run", run, "--config", config, "--plugin", plugin);
  assert.equal(done.code, 0, done.stderr);
  const saved = JSON.parse(readFileSync(join(run, "config.json"), "utf8")) as Record<string, unknown>;
  assert.deepEqual(saved["plugins"], [plugin]);
  assert.deepEqual(saved["rewards"], [{ name: "constant", weight: 1, label: null, value: 1 }]);
  for (const command of [
    ["run", run],
    ["generate", "a cat", "--lora", run, "--out", join(run, "../images")],
  ]) {
    const { code, stderr } = await b2(...command);
    assert.equal(code, 0, stderr);
  }

  const { stdout } = await b2("config", "--markdown", "--plugin", plugin);
  assert.match(stdout, /### constant[^]*`rewards.<index>.value` \| number \| `1` \| What it gives\./);
  const wrong = await b2("config", "--plugin", plugin, "--set", 'rewards=[{"name":"constant","value":"much"}]');
  assert.equal(wrong.code, 2);
  assert.match(wrong.stderr, /Expected a number for rewards.0.value but received "much"/);
});

test("plugins that cannot be are refused in a sentence", async () => {
  const typescript = file("plugin.ts", `const one: number = 1;\n${registering("typed")}`);
  const stripsTypes = Boolean((process.features as { typescript?: unknown }).typescript);
  const cases: [plugin: string, expected: RegExp][] = [
    ["none.js", /Expected a module for --plugin but received .*none.js, which is not there/],
    [file("empty.mjs", "export {};"), /Expected a plugin that registers a reward, .* but .*empty.mjs registers none/],
    [file("throws.mjs", "throw new Error('on purpose');"), /throws.mjs: Expected a module .* failed: on purpose/],
    [file("taken.mjs", registering("brightness")), /Expected a new name for a reward but received brightness/],
    [file("named.mjs", registering("My Reward")), /Expected a name in kebab case, such as my-reward/],
  ];
  if (!stripsTypes) cases.push([typescript, /plugin.ts: Node \S+ does not strip types. Take Node 22.18 or later/]);
  for (const [plugin, expected] of cases) {
    const { code, stderr } = await b2("config", "--plugin", plugin);
    assert.equal(code, 2, stderr);
    assert.match(stderr, expected);
    assert.doesNotMatch(stderr, /^ +at /m);
  }
  if (stripsTypes) {
    const { code, stderr } = await b2("config", "--plugin", typescript, "--set", "rewards=typed");
    assert.equal(code, 0, stderr);
  }
});

test("presets go on top of each other", async () => {
  const { code, stdout } = await b2("config", "--preset", "sd", "--preset", "ddpo", "--set", "stages=7");
  assert.equal(code, 0);
  const config = JSON.parse(stdout) as Record<string, Record<string, unknown>>;
  assert.equal(config["model"]!["path"], "CompVis/stable-diffusion-v1-4");
  assert.deepEqual([config["branch"]!["count"], config["select"]!["mode"], config["stages"]], [1, "all", 7]);
});

test("what computes nothing loads no libtorch, the dry run included", async () => {
  const without = { LIBTORCH: "/no/such/libtorch" };
  const commands: [args: string[], code: number][] = [
    [["--help"], 0],
    [["run", "--help"], 0],
    [["presets"], 0],
    [["config", "--preset", "demo"], 0],
    [["config", "--set", "branch.cuont=5"], 2],
    [["run", "--preset", "demo", "--dry-run"], 0],
  ];
  for (const [args, expected] of commands) {
    const { code, stderr } = await b2With(without, ...args);
    assert.equal(code, expected, `${args.join(" ")}: ${stderr}`);
    assert.doesNotMatch(stderr, /libtorch/);
  }
  const computing = await b2With(without, "generate", "a cat", "--preset", "demo", "--out", temporaryFolder());
  assert.equal(computing.code, 2);
  assert.match(computing.stderr, /^b2: Expected a release build of the native addon for \/no\/such\/libtorch/);
});

test("the dry run counts what a run then does, and writes nothing", async () => {
  const values = {
    ...tinyValues,
    rewards: ["brightness"],
    select: { mode: "all" },
    eval: { ...tinyValues.eval, enabled: true },
    train: { ...tinyValues.train, timestepFraction: 0.5, epochs: 3 },
  };
  const config = file("config.json", JSON.stringify(values));
  const run = join(temporaryFolder(), "run");
  const planned = await b2("run", run, "--config", config, "--dry-run");
  assert.equal(planned.code, 0, planned.stderr);
  assert.ok(!existsSync(run));
  const number = (pattern: RegExp): number => Number(pattern.exec(planned.stdout)![1]!.replaceAll(",", ""));

  const done = await b2("run", run, "--config", config);
  assert.equal(done.code, 0, done.stderr);
  const lines = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n");
  const stages = lines.map((line) => JSON.parse(line) as { images: number; pairs: number });
  const total = (of: (stage: { images: number; pairs: number }) => number): number =>
    stages.reduce((sum, stage) => sum + of(stage), 0);
  assert.equal(
    number(/rewards, ([\d,]+) images in 2 stages/),
    total(({ images }) => images),
  );
  // Guidance makes two passes of each.
  assert.equal(number(/training: at most ([\d,]+) forward and backward/), 2 * total(({ pairs }) => pairs));
  // 3 roots of 4 steps: stage 0 branches the last 2, stage 1 the last 3; K = 2; two passes.
  assert.equal(number(/sampling: ([\d,]+) forward/), 2 * (3 * 2 + 6 * 2 + 3 * 1 + 6 * 3));
  const evaluated = ["before", "after"].map((name) => {
    const { rows } = JSON.parse(readFileSync(join(run, `eval/${name}.json`), "utf8")) as { rows: { images: number }[] };
    return rows.reduce((sum, { images }) => sum + images, 0);
  });
  assert.equal(number(/and ([\d,]+) in evaluations/), evaluated[0]! + evaluated[1]!);
  assert.ok(readdirSync(run).length > 0);
});
