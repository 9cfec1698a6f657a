/**
 * What b2 answers without computing: it loads no native code for that, neither libtorch nor that of the image packages,
 * and needs no libtorch on the machine.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, it, test } from "node:test";
import { b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";

const skip = process.platform === "linux" ? false : "no /proc";

/** Run in the process of b2: says at its end which native libraries besides Node's own are in its memory. */
const REPORT = `import { readFileSync, writeSync } from "node:fs";
process.on("exit", () => {
  const maps = readFileSync("/proc/self/maps", "utf8");
  const native = new Set(maps.match(/[^/\\n]+\\.node$|libtorch[^/\\n]*$|libvips[^/\\n]*$/gm));
  writeSync(2, "native: " + [...native].join(" ") + "\\n");
});`;

const folder = temporaryFolder();
/** No build of the addon is for this. */
const LIBTORCH = join(folder, "no-libtorch");
mkdirSync(LIBTORCH);

const commands =
  "run runs annotate compare sample select train generate eval score probe download merge convert config presets prompts rewards new";

/** What is answered, and with which code. */
const answers: readonly [args: string, code: number, says: RegExp][] = [
  ["", 2, /Usage: b2/],
  ["--help", 0, /Usage: b2/],
  ["--version", 0, /^\d+\.\d+\.\d+/],
  ...commands
    .split(" ")
    .map((name): [string, number, RegExp] => [`${name} --help`, 0, new RegExp(`Usage: b2 ${name}`)]),
  ["help run", 0, /clip-score/],
  ["config --preset demo", 0, /"rewards"/],
  ["config --markdown", 0, /branch\.count/],
  ["presets", 0, /^demo/m],
  ["runs list /no/such/runs", 2, /Expected a folder of runs/],
  ["prompts", 0, /^paper/m],
  ["rewards", 0, /^brightness/m],
  ["rewards ocr", 0, /Apache-2\.0/],
  ["new reward --help", 0, /Usage: b2 new reward/],
  ["prompts demo/train", 2, /Expected/],
  ["run x --preset demo --dry-run", 0, /passes/],
  ["probe --preset demo --dry-run", 0, /passes/],
  ["compare x demo --dry-run", 0, /passes/],
  // Refused: an unknown command or option, a value of the wrong kind, a config that can't be, a folder that isn't there.
  ["rum", 2, /Did you mean run/],
  ["run --no-such", 2, /unknown option/],
  ["run", 2, /Expected a folder/],
  ["run x --preset dema", 2, /Allowed choices/],
  ["run x --preset demo --set train.lr=1", 2, /train\.lr/],
  ["run x --preset demo --set sample.steps=0", 2, /sample\.steps/],
  ["sample x --stage -1", 2, /whole number/],
  ["generate", 2, /Expected a prompt/],
  ["generate a --count many", 2, /whole number/],
  ["eval --compare", 2, /--lora/],
  ["annotate x", 2, /Expected a run folder/],
  ["annotate x --port many", 2, /whole number/],
  ["compare x", 2, /Expected/],
  ["score", 2, /missing required argument/],
  ["score x", 2, /Expected --rewards/],
  ["new reward x.py", 2, /Expected a name/],
  ["probe --splits a", 2, /numbers of steps/],
  ["merge x", 2, /--lora/],
  ["convert a.ckpt b", 2, /pickle/i],
  ["convert a b.ckpt", 2, /safetensors/],
];

describe("without native code b2 answers", { skip, concurrency: 2 }, () => {
  for (const [args, expected, says] of answers) {
    it(`b2 ${args}`, async () => {
      const report = `data:text/javascript,${encodeURIComponent(REPORT)}`;
      const { code, stdout, stderr } = await b2With(
        { LIBTORCH, NODE_OPTIONS: `--import=${report}` },
        ...args.split(" ").filter((word) => word !== ""),
      );
      assert.match(stderr, /^native: $/m);
      assert.match(stdout + stderr, says);
      assert.equal(code, expected);
      assert.doesNotMatch(stderr, /\n +at /);
    });
  }
});

/** The packages that a compiled module imports before it runs, itself or by others. */
function packagesOf(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return new Set();
  seen.add(file);
  const imports = readFileSync(file, "utf8").matchAll(/^(?:import|export)\s(?:[^;"]*\sfrom\s)?"([^"]+)"/gm);
  const names = [...imports].map(([, name = ""]) => name).filter((name) => !name.startsWith("node:"));
  return names
    .map((name) => (name.startsWith(".") ? packagesOf(join(dirname(file), name), seen) : new Set([name])))
    .reduce((all, some) => new Set([...all, ...some]), new Set<string>());
}

test("before it knows what is asked, b2 imports what reads arguments and draws progress, and no schema", () => {
  assert.deepEqual([...packagesOf(join(repository, "dist/src/cli/main.js"))].sort(), ["cli-progress", "commander"]);
  assert.ok(packagesOf(join(repository, "dist/src/b2/config/resolve.js")).has("zod"));
});
