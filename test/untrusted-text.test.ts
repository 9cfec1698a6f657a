/**
 * What commands print of files that come from anywhere: control characters are escaped, and in reports names are no markup.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { resolveConfig } from "../src/b2/index.js";
import { visible } from "../src/base/show.js";
import { encodePng } from "../src/images/index.js";
import { RunWriter, type StageMetrics } from "../src/runs/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import { zeros } from "../src/torch/index.js";
import { b2With, warmB2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { tinyConfig } from "./support/tiny.js";

const folder = temporaryFolder();

/** Clears a screen, sets a title, recolours, turns the direction around, breaks lines, and is markup. */
const CONTROL = "\u001b[2J\u001b]0;title\u0007\u009b31m\u202etxt\u2028\u2066\r\b\u0085";
const MARKUP = "<script>alert(1)</script><img src=x onerror=y>\" onload='z' | ]]> <!-- & &lt; \\| **";
const hostile = (what: string): string => `${what} ${CONTROL} ${MARKUP}`;

const at = (...names: string[]): string => join(folder, ...names);
const cost = { queries: 4, forwardPasses: 4, backwardPasses: 2, seconds: 1, processorSeconds: 1 };

/** A run whose names are hostile wherever a run has names. */
function made(path: string, alignment: number): string {
  const config = resolveConfig(tinyConfig({ rewards: ["brightness"], prompts: { train: [`a cat \u202e${MARKUP}`] } }));
  const names = {
    b2: hostile("b2"),
    libtorch: hostile("torch"),
    processor: hostile("processor"),
    device: hostile("cpu"),
  };
  const madeBy = { fromStage: 0, at: "2026-01-01", threads: 2, ...names };
  const writer = RunWriter.create(path, { config, reward: "config", madeBy });
  for (const stage of [0, 1]) {
    writer.beginStage(stage);
    const metrics = { stage, rewardMean: 0.5, images: 6, selected: 3, cost: cost, rewards: {} };
    const named = {
      objective: { [hostile("objective")]: 0.5 },
      rewards: { [hostile("reward")]: { mean: 1, seconds: 1 } },
    };
    writer.finishStage(stage, { ...metrics, ...named } as unknown as StageMetrics, { trajectories: 1, optimizers: 1 });
    writeFileSync(writer.stagePath(stage, "lora"), "");
  }
  for (const [name, shift] of [
    ["before", 0],
    ["after", alignment],
  ] as const) {
    const mean = { mean: 0.25 + shift, low: 0, high: 1 };
    const labels = { [hostile("a")]: 1, [hostile("b")]: 2 };
    const perPrompt = [
      { prompt: hostile("prompt"), reward: mean.mean, trueAlignment: mean.mean, slots: labels, rewards: labels },
    ];
    const byLabel = Object.fromEntries(Object.keys(labels).map((label) => [label, mean]));
    const row = { prompts: "training", images: 2, reward: mean, trueAlignment: mean, slots: byLabel, rewards: byLabel };
    writer.writeEvaluation(name, { rows: [{ ...row, perPrompt }] });
  }
  writeFileSync(join(path, "config.json"), JSON.stringify({ ...config, [hostile("key")]: hostile("value") }));
  return path;
}

const comparison = at("comparison");
for (const [setting, alignment] of [
  ["one", 0.25],
  ["two", 0.5],
] as const) {
  const path = made(join(comparison, "runs", setting, "seed-1"), alignment);
  writeFileSync(join(path, "config.json"), JSON.stringify(resolveConfig(tinyConfig({ rewards: ["brightness"] }))));
}
writeFileSync(join(comparison, "compare.json"), '{"settings":{"one":"demo","two":"demo"},"seeds":[1]}');
const run = made(at("runs", hostile("run").replaceAll("/", "")), 0.25);
const other = made(at("runs", "other"), 0.5);
mkdirSync(at("runs", `damaged ${CONTROL}`));
writeFileSync(at("runs", `damaged ${CONTROL}`, "run.json"), JSON.stringify({ format: hostile("format") }));

const key = hostile("key");
saveSafetensors(at("strange.safetensors"), { [key]: zeros([1]) }, { [key]: key });
writeFileSync(at("prompts.txt"), `a cat \u202e\u2066\u2028\u009b31m\u0085\n`);
writeFileSync(at("control.txt"), `a cat ${CONTROL}\n`);
writeFileSync(at("config.json"), JSON.stringify({ [key]: key, model: { path: key, [key]: 1 } }));
writeFileSync(at("config.yaml"), `"${key.replaceAll("\\", "").replaceAll('"', "")}": [\n`);
const images = at(`images ${CONTROL}`);
mkdirSync(images);
writeFileSync(join(images, "a.png"), encodePng(zeros([3, 8, 8])));
writeFileSync(join(images, "metadata.jsonl"), JSON.stringify({ file_name: "a.png", prompt: `a cat ${CONTROL}` }));

describe("commands print no control characters of", () => {
  const commands: Readonly<Record<string, readonly string[]>> = {
    "runs, in a list": ["runs", "list", at("runs")],
    "a run": ["runs", "show", run],
    "a run as JSON": ["runs", "show", run, "--json"],
    "two runs": ["runs", "diff", run, other],
    "a run that is damaged": ["runs", "show", at("runs", `damaged ${CONTROL}`)],
    prompts: ["prompts", at("prompts.txt")],
    "prompts that are refused": ["prompts", at("control.txt")],
    "a list's name": ["prompts", `paper:${CONTROL}`],
    "a config": ["config", "--config", at("config.json")],
    "a config in YAML": ["config", "--config", at("config.yaml")],
    "an assignment": ["config", "--set", `${key}=1`, "--set", `model.${CONTROL}=1`],
    "weights to convert": ["convert", at("strange.safetensors"), at("out.safetensors"), "--form", "kohya"],
    "weights to merge": ["merge", at("merged"), "--lora", at("strange.safetensors"), "--preset", "demo"],
    "a model's name": ["generate", "a", "--set", `model.path=${key}`, "--out", at("generated")],
    "scored images": ["score", images, "--rewards", "brightness"],
    "a command": [CONTROL],
  };
  for (const [what, args] of Object.entries(commands)) {
    test(what, async () => {
      // No argument can hold NUL.
      const { code, stdout, stderr } = await warmB2(...args);
      assert.ok(code === 0 || code === 2 || code === 1, stderr);
      assert.doesNotMatch(stderr, /^\s+at /m, "a stack");
      assert.notEqual(stdout + stderr, "");
      assert.equal(stdout, visible(stdout));
      assert.equal(stderr, visible(stderr));
    });
  }
});

test("what a machine is examined for has none of its variables either", async () => {
  const { stdout, stderr } = await b2With({ LIBTORCH: `/no ${CONTROL}`, HF_HOME: `/no ${CONTROL}` }, "doctor");
  assert.match(stdout, /\/no \\u001b\[2J/);
  assert.equal(stdout + stderr, visible(stdout + stderr));
});

test("a comparison's report: names are no markup, and no control characters", async () => {
  const { code, stdout, stderr } = await warmB2("compare", "report", comparison);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, visible(stdout));
  assert.equal(stderr, visible(stderr));
  const [html, markdown] = ["report.html", "report.md"].map((name) => readFileSync(join(comparison, name), "utf8"));
  assert.equal(html, visible(html!));
  assert.equal(markdown, visible(markdown!));
  // The names are there, as text.
  assert.ok(html.includes("&lt;script&gt;alert(1)&lt;/script&gt;"));
  assert.equal(html.match(/<script/g)!.length, 1, "the page's own");
  assert.doesNotMatch(html, /<img|<!--|<[^>]*\bonload=/);
  const cells = markdown.split("\n").filter((line) => line.includes("alert(1)"));
  assert.notEqual(cells.length, 0);
  for (const line of cells) assert.doesNotMatch(line, /(?<!\\)<(script|img|!--)/);
});
