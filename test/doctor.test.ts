/** `b2 doctor` on machines of several kinds, each a real process: a whole one, and ones that lack something. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { printableIn, type Finding, type SmokeReport } from "../src/doctor/index.js";
import { torchVersion } from "../src/torch/index.js";
import { b2, b2With, type Outcome } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";

interface Report {
  readonly usable: boolean;
  readonly findings: readonly Finding[];
  readonly smoke?: SmokeReport;
}

const reportOf = ({ stdout }: Outcome): Report => JSON.parse(stdout) as Report;

const found = ({ findings }: Report, check: string): Finding =>
  findings.find((finding) => finding.check === check) ?? assert.fail(`no finding about ${check}`);

/** A folder for the PATH with a program of a few lines of sh in it. */
function program(name: string, ...lines: string[]): string {
  const folder = temporaryFolder();
  writeFileSync(join(folder, name), ["#!/bin/sh", ...lines, ""].join("\n"));
  chmodSync(join(folder, name), 0o755);
  return folder;
}

const before = (folder: string): NodeJS.ProcessEnv => ({ PATH: `${folder}:${process.env["PATH"]}` });

/** The package as npm installs it where no install script runs, without one of its dependencies. */
function installedWithout(dependency?: string): string {
  const root = temporaryFolder();
  for (const path of ["bin", "dist/src", "models", "scripts", "package.json"]) {
    cpSync(join(repository, path), join(root, path), { recursive: true });
  }
  mkdirSync(join(root, "node_modules"));
  for (const name of readdirSync(join(repository, "node_modules"))) {
    if (name !== dependency) symlinkSync(join(repository, "node_modules", name), join(root, "node_modules", name));
  }
  return root;
}

function runIn(root: string, ...args: string[]): Outcome {
  const env = { ...process.env, LIBTORCH: "" };
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, "bin/b2.js"), ...args], {
    encoding: "utf8",
    env,
  });
  return { code: status, stdout, stderr };
}

describe("b2 doctor", () => {
  it("says of a machine that can run b2 what there is, as text and as JSON", async () => {
    const [text, json] = [await b2("doctor"), await b2("doctor", "--json")];
    assert.deepEqual([text.code, json.code, text.stderr, json.stderr], [0, 0, "", ""]);
    const report = reportOf(json);
    assert.equal(report.usable, true);
    assert.equal(found(report, "addon").facts!["loaded"], torchVersion());
    assert.equal(found(report, "libtorch").state, "good");
    assert.equal(found(report, "Node").facts!["version"], process.version);
    assert.equal(found(report, "images").state, "good");
    for (const { check } of report.findings) assert.match(text.stdout, new RegExp(`^[✓!-] ${check} `, "m"));
    assert.match(text.stdout, /^✓ addon +loads libtorch/m);
    assert.match(text.stdout, /\nb2 can run here/);
  });

  it("names the set-up where the addon is not built, and exits with 1", () => {
    const outcome = runIn(installedWithout(), "doctor");
    assert.equal(outcome.code, 1);
    assert.equal(outcome.stderr, "");
    assert.match(outcome.stdout, /^✗ addon +is not built\n +-> npx b2 setup$/m);
    assert.match(outcome.stdout, /b2 cannot run here: 1 problem \(✗\)/);
  });

  it("names the set-up where the addon is broken, and for a LIBTORCH without any", async () => {
    const root = installedWithout();
    const builds = join(root, "build");
    mkdirSync(join(builds, "some"), { recursive: true });
    writeFileSync(join(builds, "current.json"), JSON.stringify({ root: "/gone", version: "2.9.0" }));
    writeFileSync(join(builds, "some/build.json"), JSON.stringify({ root: "/gone", kind: "release" }));
    writeFileSync(join(builds, "some/torch.node"), "not a library");
    const broken = runIn(root, "doctor", "--json");
    assert.equal(broken.code, 1);
    const addon = found(reportOf(broken), "addon");
    assert.match(addon.message, /^is built for \/gone but does not load: ./);
    assert.equal(addon.fix, "npx b2 setup");

    const elsewhere = await b2With({ LIBTORCH: temporaryFolder() }, "doctor", "--smoke", "--json");
    assert.equal(elsewhere.code, 1);
    const report = reportOf(elsewhere);
    assert.match(found(report, "addon").message, /^is not built for /);
    assert.equal(report.smoke, undefined);
  });

  it("runs without sharp or resvg, and says so", () => {
    for (const [dependency, name] of [
      ["sharp", "sharp"],
      ["@resvg", "resvg"],
    ] as const) {
      const { state, message } = found(reportOf(runIn(installedWithout(dependency), "doctor", "--json")), "images");
      assert.equal(state, "problem");
      assert.match(message, new RegExp(`^${name} does not load: .*${dependency}`));
    }
  });

  it("never prints a token or a proxy's password, and escapes control characters", async () => {
    const secrets = {
      HF_TOKEN: "hf_do-not-print",
      HTTPS_PROXY: "http://me:do-not-print@proxy.example:8080",
      HF_ENDPOINT: "https://me:do-not-print@mirror.example",
      B2_THREADS: "1\u001b[31m\u009b2J",
    };
    for (const format of [[], ["--json"]]) {
      const { stdout, stderr } = await b2With(secrets, "doctor", ...format);
      assert.doesNotMatch(stdout + stderr, /do-not-print/);
      assert.match(stdout, /a token is there/);
      assert.match(stdout, /HTTPS_PROXY=http:\/\/\*\*\*@proxy\.example:8080/);
      // eslint-disable-next-line no-control-regex
      assert.doesNotMatch(stdout, /[\u001b\u009b]/);
      assert.match(stdout, /B2_THREADS=1\\+u001b\[31m\\+u009b2J/);
    }
  });

  it("reads nvidia-smi, and says where a libtorch for CPUs leaves its GPUs idle", async () => {
    const folder = program("nvidia-smi", "echo 'NVIDIA H200, 580.159, 143771 MiB, 512 MiB'");
    const { state, message, facts } = found(reportOf(await b2With(before(folder), "doctor", "--json")), "CUDA");
    assert.match(message, /NVIDIA H200, 512 MiB of 143771 MiB used, driver 580\.159/);
    assert.deepEqual(facts!["gpus"], [
      { name: "NVIDIA H200", driver: "580.159", memory: "143771 MiB", used: "512 MiB" },
    ]);
    assert.equal(state, facts!["devices"] === 0 ? "warning" : "good");
  });

  it("goes on where nvidia-smi hangs, fails, or prints something else", async () => {
    const garbage = String.raw`printf 'a\033[2Jb,c\n\000\377'`;
    const cases: [folder: string, says: RegExp][] = [
      // What it starts keeps its pipes open.
      [program("nvidia-smi", "sleep 60"), /no answer for 20 seconds/],
      [
        program("nvidia-smi", "echo 'Failed to initialize NVML' >&2", "exit 9"),
        /exit code 9: Failed to initialize NVML/,
      ],
      [program("nvidia-smi", garbage), /something else than a list of GPUs/],
      [program("nvidia-smi", "yes"), /printed without end/],
    ];
    const outcomes = cases.map(async ([folder, says]) => {
      const outcome = await b2With({ ...before(folder), B2_THREADS: "1" }, "doctor", "--json");
      assert.equal(outcome.code, 0);
      assert.match(found(reportOf(outcome), "CUDA").message, says);
    });
    await Promise.all(outcomes);
  });
});

describe("b2 doctor --smoke", () => {
  it("holds the embedded model on the CPU against itself: no error in float32, and a first ratio of 1", async () => {
    const { code, stdout, stderr } = await b2("doctor", "--smoke", "--size", "tiny", "--device", "cpu", "--json");
    assert.equal(code, 0, stdout);
    assert.match(stderr, /^the embedded model in bfloat16 on cpu$/m);
    const { smoke } = reportOf({ code, stdout, stderr });
    assert.equal(smoke!.passed, true);
    const [model, ...others] = smoke!.models;
    assert.deepEqual(others, []);
    assert.deepEqual(model!.failures, []);
    const [whole, ...halves] = model!.precisions;
    assert.equal(whole!.dtype, "float32");
    assert.deepEqual(
      whole!.checks.map(({ name, error }) => [name, error]),
      ["prediction", "images", "reward", "gradient", "first ratio"].map((name) => [name, 0]),
    );
    for (const { checks, seconds, peakBytes } of halves) {
      assert.ok(checks.every(({ passed }) => passed));
      assert.deepEqual([checks.at(-1)!.name, checks.at(-1)!.allowed], ["first ratio", 1e-6]);
      assert.ok(seconds.step > 0 && seconds.train > 0 && seconds.decode > 0);
      assert.ok(peakBytes > 2e7);
    }
    assert.equal(halves.length + model!.leftOut.length, 2);
  });

  it("prints the findings, then a table, and nothing but these on stdout", async () => {
    const { code, stdout } = await b2("doctor", "--smoke", "--size", "tiny");
    assert.equal(code, 0);
    assert.match(
      stdout,
      /^✓ package[\s\S]*\nb2 can run here.*\n\nWhat \S+ computes with libtorch [\s\S]*within rounding\.\n$/,
    );
    assert.match(stdout, /\nfloat32 +✓ \S+ +✓ \S+ +✓ \S+ +✓ \S+ +✓ \S+ +\S+ s +\S+ s +\S+ s /);
  });

  it("refuses a device that is none, one that is not here, and options that only --smoke reads", async () => {
    const cases: [args: string[], says: RegExp][] = [
      [["--smoke", "--device", "gpu"], /^b2: .*model\.device.*gpu/s],
      [["--smoke", "--device", "cuda:99"], /^b2: Expected .*cuda.*\n$/],
      [["--device", "cpu"], /^b2: Expected --smoke with --device/],
      [["--size", "tiny"], /^b2: Expected --smoke with --size/],
    ];
    for (const [args, says] of cases) {
      const { code, stderr } = await b2("doctor", ...args);
      assert.equal(code, 2, args.join(" "));
      assert.match(stderr, says);
    }
  });
});

it("printableIn escapes what moves a cursor or turns the direction, and leaves the rest", () => {
  const given = { a: ["é\n", 3, null], "\u001b": { b: "\u202eabc\u2066" } };
  assert.deepEqual(printableIn(given), { a: ["é\\u000a", 3, null], "\\u001b": { b: "\\u202eabc\\u2066" } });
});
