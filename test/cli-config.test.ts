// The command line: help, config, and everything that is refused with code 2.
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { resolveConfig } from "../src/b2/config/resolve.js";
import { b2, warmB2 } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const commands =
  "run annotate sample select train generate eval score compare config presets prompts rewards new".split(" ");

test("help names every command, and each command's help has an example", async () => {
  const { code, stdout } = await warmB2("--help");
  assert.equal(code, 0);
  for (const command of commands) assert.match(stdout, new RegExp(`^  ${command}\\b`, "m"));
  const helps = await Promise.all(commands.map((command) => b2(command, "--help")));
  helps.forEach((help, i) => {
    assert.equal(help.code, 0);
    assert.match(help.stdout, new RegExp(`Examples?:\n  \\$ b2 ${commands[i]}`));
  });
});

test("config prints what the options amount to", async () => {
  const { code, stdout } = await warmB2("config", "--preset", "ddpo", "--set", "objective.clipRange=0.2");
  assert.equal(code, 0);
  const config = JSON.parse(stdout) as ReturnType<typeof resolveConfig>;
  assert.equal(config.branch.count, 1);
  assert.equal(config.objective["clipRange"], 0.2);
  assert.deepEqual(resolveConfig(config), config);
});

test("presets go on top of each other: DDPO on Stable Diffusion", async () => {
  const { code, stdout, stderr } = await warmB2("config", "--preset", "sd", "--preset", "ddpo");
  assert.equal(code, 0, stderr);
  const { model, branch, select, sample, rewards, interval } = JSON.parse(stdout) as ReturnType<typeof resolveConfig>;
  assert.deepEqual([model.path, model.dtype], ["CompVis/stable-diffusion-v1-4", "bfloat16"]);
  assert.match(rewards[0]!["model"] as string, /^laion\//);
  assert.deepEqual([branch.count, select.mode, interval.first], [1, "all", null]);
  assert.deepEqual([sample.rootsPerStage, sample.batchSize], [1280, 16]);
  // ddpo-pytorch: 256 images and two updates an epoch.
  const published = await warmB2("config", "--preset", "sd", "--preset", "ddpo-pytorch");
  assert.equal(published.code, 0, published.stderr);
  const ddpo = JSON.parse(published.stdout) as ReturnType<typeof resolveConfig>;
  const { steps, guidanceScale, rootsPerStage } = ddpo.sample;
  assert.deepEqual([steps, guidanceScale, rootsPerStage, ddpo.interval.first], [50, 5, 256, null]);
  assert.deepEqual([ddpo.train.learningRate, ddpo.train.epochs, ddpo.train.samplesPerUpdate], [3e-4, 1, 128]);
  assert.deepEqual([ddpo.objective["clipRange"], ddpo.advantage.historyImages, ddpo.select.mode], [1e-4, 32, "all"]);
  assert.deepEqual([ddpo.prompts.train, ddpo.eval.truth], ["paper:train", "none"]);
  // The later one wins where both say something.
  const mixed = await Promise.all(
    [
      ["demo-b2", "ddpo"],
      ["ddpo", "demo-b2"],
    ].map(([a, b]) => warmB2("config", "--preset", a!, "--preset", b!)),
  );
  const counts = mixed.map((outcome) => (JSON.parse(outcome.stdout) as ReturnType<typeof resolveConfig>).branch.count);
  assert.deepEqual(counts, [1, 4]);
});

test("prompts prints lists and their names, and a file", async () => {
  const all = await warmB2("prompts");
  assert.match(all.stdout, /^paper:activity\/test +90 +a cat riding a bike$/m);
  const list = await warmB2("prompts", "paper:relation/test");
  assert.equal(list.stdout.split("\n").length, 31);
  const file = join(temporaryFolder(), "own.txt");
  writeFileSync(file, list.stdout);
  assert.deepEqual(await warmB2("prompts", file), list);
  const unknown = await warmB2("prompts", "paper:activity");
  assert.equal(unknown.code, 2);
  assert.match(unknown.stderr, /Expected emoji:train, .* but received "paper:activity"/);
});

test("docs/config.md is what the config says of itself", async () => {
  const { stdout } = await warmB2("config", "--markdown");
  const written = readFileSync(join(repository, "docs/config.md"), "utf8");
  assert.equal(written, stdout, "run: node bin/b2.js config --markdown > docs/config.md");
});

test("docs/rewards.md is what the rewards say of themselves", async () => {
  const { stdout } = await warmB2("rewards", "--markdown");
  const written = readFileSync(join(repository, "docs/rewards.md"), "utf8");
  assert.equal(written, stdout, "run: node bin/b2.js rewards --markdown > docs/rewards.md");
});

test("rewards lists the rewards, those of plugins too, and shows one", async () => {
  const plugin = ["--plugin", join(repository, "dist/examples/plugins/reward.js")];
  const [list, one, unknown] = await Promise.all([
    warmB2("rewards", ...plugin),
    warmB2("rewards", "colour", ...plugin),
    warmB2("rewards", "brightnes"),
  ]);
  assert.match(list.stdout, /^clip-score +CLIPScore: .*$/m);
  assert.match(list.stdout, /^colour +The share of the image that is of a colour, 0 to 1$/m);
  assert.match(one.stdout, /^colour: The share .*\n {2}cost +nothing to speak of\n/);
  assert.match(one.stdout, /^tolerance +number over 0 to 1 +0\.3 +How far off a pixel may be/m);
  assert.equal(unknown.code, 2);
  assert.match(
    unknown.stderr,
    /^b2: Expected clip-score, .* for the reward but received brightnes; did you mean brightness\?/,
  );
});

test("bad input is one clear message, code 2, and nothing is written", async () => {
  const folder = temporaryFolder();
  const run = join(folder, "run");
  const file = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const tiny = file("tiny.json", JSON.stringify(tinyValues));
  const occupied = join(folder, "occupied");
  mkdirSync(occupied);
  writeFileSync(join(occupied, "notes.txt"), "mine");
  const refused: [string[], RegExp][] = [
    [["run", run, "--set", "branch.cuont=5"], /Unknown key branch.cuont; did you mean branch.count\?/],
    [
      ["run", run, "--set", "branch.count=0", "--set", "sample.steps=x"],
      /- Expected a number for sample.steps.*\n- Expected at least 1/,
    ],
    [["run", run, "--config", join(folder, "none.json")], /none.json: Expected a readable text file/],
    [["run", run, "--preset", "best"], /Allowed choices are b2, ddpo/],
    [["run", run], /Expected a run in .*, or --preset/],
    [["run"], /Expected a folder for the run/],
    [["run", run, "--config", tiny, "--set", "model.path=no/model"], /Expected a model folder but received no\/model/],
    [["run", run, "--config", tiny, "--set", `model.path=${folder}`], /model_index.json/],
    [["run", run, "--config", tiny, "--set", "prompts.train=none.txt"], /none.txt: Expected a readable text file/],
    [["run", run, "--config", tiny, "--set", "reward.name=no-such"], /no-such/],
    [
      ["run", occupied, "--config", tiny, "--set", `reward.name=${file("r.mjs", reward)}`],
      /Expected an empty or new folder/,
    ],
    [["sample", run, "--stage", "-1", "--config", tiny], /Expected a whole number of at least 0/],
    [["sample", run, "--stage", "2", "--config", tiny], /Expected a stage from 0 to 1 for --stage but received 2/],
    [["select", run], /Expected a run in/],
    [["generate"], /Expected a prompt, or --prompts/],
    [["generate", "a cat", "--lora", join(folder, "none")], /Expected a run folder, a LoRA file/],
    [["eval", "--compare"], /Expected --lora with --compare/],
    [["fly"], /unknown command 'fly'/],
  ];
  process.env["HF_HUB_OFFLINE"] = "1"; // no test asks the real hub
  const check = async ([args, expected]: [string[], RegExp]): Promise<void> => {
    const { code, stdout, stderr } = await warmB2(...args);
    assert.equal(code, 2, `b2 ${args.join(" ")}: ${stderr}`);
    assert.match(stderr, expected);
    assert.equal(stdout, "");
    assert.doesNotMatch(stderr, /^\s+at /m, "no stack");
    assert.ok(!existsSync(run), `b2 ${args.join(" ")} left ${run}`);
  };
  for (const one of refused) await check(one);
});

const reward = "export default (images, prompts) => prompts.map((_, i) => i);";
