// What the command line meets outside of configs: pipes that end, disks that are full, places that take no files, rewards
// that misbehave, and text that would steer the terminal.
import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { contactSheet } from "../src/images/index.js";
import { full } from "../src/torch/index.js";
import { b2, warmB2, type Outcome } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const stack = /\n +at /;

function write(name: string, contents: string | Uint8Array): string {
  const file = join(folder, name);
  writeFileSync(file, contents);
  return file;
}

const config = write("tiny.json", JSON.stringify({ ...tinyValues, stages: 1, rewards: ["brightness"] }));

/** Runs a line of bash in which `b2` is the command line. */
function bash(line: string): Promise<Outcome> {
  const b2Function = `b2() { "${process.execPath}" "${join(repository, "bin/b2.js")}" "$@"; }\n`;
  return new Promise((resolveOutcome) => {
    const child = execFile("bash", ["-c", b2Function + line], (_, stdout, stderr) => {
      resolveOutcome({ code: child.exitCode, stdout, stderr });
    });
  });
}

const refused = (message: RegExp, ...args: string[]): Promise<void> => refusedBy(warmB2, message, ...args);

async function refusedBy(command: typeof b2, message: RegExp, ...args: string[]): Promise<void> {
  const { code, stderr } = await command(...args);
  assert.equal(code, 2, stderr);
  assert.match(stderr, message);
  assert.doesNotMatch(stderr, stack);
}

describe("output that nobody reads", () => {
  it("is dropped", async () => {
    const { stdout, stderr } = await bash('b2 config --markdown | head -1; echo "${PIPESTATUS[0]}"');
    assert.deepEqual([stdout, stderr], ["# Configuration\n0\n", ""]);
  });

  it("of a log does not stop a run", async () => {
    const run = join(folder, "unheard");
    const { code } = await bash(`b2 run ${run} --config ${config} 2> >(head -c 1 > /dev/null)`);
    assert.equal(code, 0);
    assert.ok(existsSync(join(run, "stages/0000/stage.json")));
  });

  const skip = existsSync("/dev/full") ? false : "no /dev/full";
  it("because the disk is full is told in a sentence", { skip }, async () => {
    for (const command of ["presets", "config", "--help"]) {
      const { code, stderr } = await bash(`b2 ${command} > /dev/full`);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /^b2: Expected to write to stdout but received: ENOSPC/);
      assert.doesNotMatch(stderr, stack);
    }
  });
});

describe("a place that takes no files", () => {
  const skip = existsSync("/proc/self") ? false : "no /proc";
  it("is refused before any work, also where node's own mkdir would try for ever", { skip }, async () => {
    await refused(/^b2: Expected to write \/proc\/b2-images but /, "generate", "a cat", "--out", "/proc/b2-images");
    await refused(/^b2: Expected to write \/proc\/b2-none but /, "eval", "--out", "/proc/b2-none/eval.json");
  });

  it("is refused with the reason", async () => {
    const file = write("file", "");
    await refused(
      /^b2: Expected to write \S+ but a part of its path is a file/,
      "generate",
      "a",
      "--out",
      join(file, "x"),
    );
    await refused(/^b2: Expected to write \S+ but it is a file, not a folder/, "generate", "a", "--out", file);
    await refused(
      /^b2: Expected to write \S+ but its name is too long/,
      "generate",
      "a",
      "--out",
      join(folder, "x".repeat(300)),
    );
  });

  it("in the midst of a run is told with the file, and the run goes on where there is room", async () => {
    const run = join(folder, "limited");
    const limited = await bash(`ulimit -f 20; b2 run ${run} --config ${config} --set record.images=0`);
    assert.equal(limited.code, 2, limited.stderr);
    assert.match(limited.stderr, /b2: Expected to write \S+stages\/0000\/pytorch_lora_weights\.safetensors but /);
    assert.doesNotMatch(limited.stderr, stack);
    const left = readdirSync(run, { recursive: true, encoding: "utf8" });
    assert.deepEqual(
      left.filter((name) => name.endsWith(".tmp")),
      [],
    );
    const rest = await b2("run", run);
    assert.equal(rest.code, 0, rest.stderr);
  });
});

describe("a pipe in place of a file", () => {
  it("is refused instead of being waited for", async () => {
    const pipe = join(folder, "pipe.safetensors");
    execFileSync("mkfifo", [pipe]);
    await refused(/pipe\.safetensors: Expected a file but received a pipe/, "generate", "a cat", "--lora", pipe);
    await refused(/pipe\.safetensors: Expected a file but received a pipe/, "generate", "--prompts", pipe);
    const model = join(folder, "model");
    mkdirSync(model);
    execFileSync("mkfifo", [join(model, "model_index.json")]);
    await refused(
      /model_index\.json: Expected a file but received a pipe|Expected a folder whose model_index/,
      "generate",
      "a",
      "--set",
      `model.path=${model}`,
    );
  });
});

describe("a reward that misbehaves", () => {
  const cases: readonly (readonly [name: string, module: string, message: RegExp])[] = [
    [
      "never",
      "() => new Promise(() => {})",
      /an answer from the reward never for 6 images from .* but received a promise that nothing can settle/,
    ],
    ["null", "() => { throw null; }", /an answer from the reward null for 6 images from .* but it threw null/],
    [
      "huge",
      "(images, prompts) => prompts.map(() => 1e308)",
      /a number of at most 1e30 from the reward huge but received 1e\+308/,
    ],
    [
      "greedy",
      "(images, prompts) => { images.dispose(); return prompts.map(() => 1); }",
      /the reward greedy to leave the images alone/,
    ],
  ];
  for (const [name, source, message] of cases) {
    it(`is told with its name: ${name}`, async () => {
      const module = write(`${name}.mjs`, `export default ${source};\n`);
      await refusedBy(
        b2,
        message,
        "run",
        join(folder, `run-${name}`),
        "--config",
        config,
        "--set",
        `rewards=${module}`,
      );
    });
  }

  it("cannot end the process in silence", async () => {
    const module = write("exit.mjs", "export default () => process.exit(0);\n");
    const { code, stderr } = await b2("run", join(folder, "exit"), "--config", config, "--set", `rewards=${module}`);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^b2: Expected an answer from the reward exit for 6 images from .* but it ended the process$/m,
    );
  });
});

describe("prompts", () => {
  const run = (prompts: string, ...args: string[]): string[] => [
    "run",
    join(folder, "prompts"),
    "--config",
    config,
    "--set",
    `prompts.train=${prompts}`,
    ...args,
  ];

  it("with control characters are refused, in files and by themselves", async () => {
    await refused(
      /without control characters in \S+esc\.json but received "a \\u001b\[31mcat"/,
      ...run(write("esc.json", JSON.stringify(["a \u001b[31mcat"]))),
    );
    await refused(/without control characters .*"a \\u0000 dog"/, ...run(write("nul.txt", "a \0 dog\n")));
    await refused(/without control characters/, "generate", "a \u0007 bell", "--config", config);
    await refused(/Expected a prompt but received an empty one/, "generate", " ", "--config", config);
  });

  it("that are not UTF-8 are refused, by --dry-run too", async () => {
    const utf16 = write("utf16.txt", Buffer.from("\ufeffa cat\n", "utf16le"));
    const latin1 = write("latin1.txt", Buffer.from("a caf\xe9\n", "latin1"));
    for (const file of [utf16, latin1]) await refused(/it is not UTF-8 text/, ...run(file, "--dry-run"));
  });

  it("that are longer than the text encoder reads are counted in one warning", async () => {
    const list = write("long.txt", `${"a cat ".repeat(60)}\na dog\n${"red ".repeat(90)}\n`);
    const out = join(folder, "long");
    const { code, stderr } = await b2("generate", "--prompts", list, "--config", config, "--out", out);
    assert.equal(code, 0, stderr);
    const warnings = stderr.split("\n").filter((line) => line.startsWith("warning: "));
    assert.equal(warnings.length, 1, stderr);
    assert.match(warnings[0]!, /^warning: 2 of 3 prompts have more than the 77 tokens/);
    const again = await b2("generate", "a dog", "--config", config, "--out", join(folder, "long"));
    assert.doesNotMatch(again.stderr, /warning/);
  });

  it("of any script and any character are captions", () => {
    const images = [full([3, 8, 8], 0.5), full([3, 8, 8], 0.5)];
    const captions = ["一只猫在骑自行车".repeat(8), "a \u001b\u0000 \ud800 \uffff <cat>"];
    const png = contactSheet([{ images }], captions);
    assert.deepEqual(
      [...png.slice(1, 4)],
      [..."PNG"].map((letter) => letter.charCodeAt(0)),
    );
  });
});

describe("images without numbers", () => {
  it("are the model's fault, not the reward's", () =>
    refused(
      /Expected images of numbers from the model but received NaN or infinity/,
      "generate",
      "a cat",
      "--config",
      config,
      "--set",
      "sample.guidanceScale=1e30",
    ));
});

describe("counts", () => {
  it("that would fill the memory are refused", async () => {
    for (const [set, message] of [
      ["sample.rootsPerStage=1000000000", /at most 1000000 for sample\.rootsPerStage/],
      ["branch.count=9007199254740991", /at most 1000000 for branch\.count/],
      [
        "branch.count=900000",
        /at most 1000000 images from sample\.rootsPerStage, branch\.count and branch\.splits together/,
      ],
      [
        "eval.imagesPerPrompt=900000",
        /at most 1000000 images from eval\.maxPrompts and eval\.imagesPerPrompt together/,
      ],
      ["sample.steps=1001", /at most 1000 for sample\.steps/],
      ["model.threads=100000", /at most 4096 for model\.threads/],
      ["stages=1000000000", /at most 1000000 for stages/],
    ] as const) {
      await refused(message, "config", "--set", set);
    }
    await refused(
      /Expected at most 1000000 but received 9{20}/,
      "generate",
      "a cat",
      "--count",
      "99999999999999999999",
    );
    await refused(/at most 1000000 images from the prompts and --count/, "generate", "a", "b", "--count", "1000000");
  });
});

describe("text from anywhere", () => {
  it("does not steer the terminal", async () => {
    const key = "\u001b[2J\u001b]0;pwned\u0007";
    const outcomes = [
      await warmB2("config", "--config", write("key.json", JSON.stringify({ [key]: 1 }))),
      await warmB2("config", "--set", `rewards=${key}`),
      await warmB2("generate", "a cat", "--set", `model.path=no/${key}`),
      await warmB2("run", `--${key}`),
      await warmB2("generate", "a cat", "--lora", key),
    ];
    for (const { code, stderr } of outcomes) {
      assert.equal(code, 2, stderr);
      // eslint-disable-next-line no-control-regex
      assert.doesNotMatch(stderr, /[\0-\x08\x0b-\x1f\x7f-\x9f]/);
      assert.match(stderr, /u001b/);
    }
  });

  it("is cut where it is longer than a message", async () => {
    const { code, stderr } = await warmB2("config", "--config", write("long-key.json", `{"${"x".repeat(70_000)}": 1}`));
    assert.equal(code, 2);
    assert.ok(stderr.length < 1500, String(stderr.length));
  });
});

describe("the device", () => {
  it("is checked before anything is downloaded", async () => {
    const { code, stderr } = await warmB2("generate", "a cat", "--device", "mps", "--set", "model.path=no/such-model");
    assert.equal(code, 2);
    assert.match(stderr, /Expected a Metal device for model\.device "mps"/);
  });
});
