/** `b2 setup`, and what b2 says where the native addon is not as it should be. In an installed package, like a user's. */
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { Outcome } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { b2Of, copyAddon, installInto, node, type Project } from "./support/installed.js";

let project: Project;
const inBuild = (path: string): string => join(project.installed, "build", path);

/** Writes a file of build/. */
function write(path: string, content: unknown): void {
  mkdirSync(dirname(inBuild(path)), { recursive: true });
  writeFileSync(inBuild(path), typeof content === "string" ? content : JSON.stringify(content));
}

/** Nothing of the environment that the tests themselves run in. */
const unset = { LIBTORCH: undefined, B2_LIBTORCH: undefined, B2_ADDON: undefined };

before(() => {
  // A space in a path is what makefiles can't have.
  project = installInto(join(temporaryFolder(), "my project"));
});
beforeEach(() => {
  rmSync(inBuild(""), { recursive: true, force: true });
});

const NOT_BUILT = "b2: The native addon, which calls libtorch, is not built. Run: npx b2 setup\n";

describe("without the addon", { concurrency: 2 }, () => {
  const needing = [
    "run x --preset demo",
    "sample x --preset demo",
    // Of the hub: nothing is downloaded before.
    "run x --preset sd --set model.path=owner/none --set prompts.train=paper:activity/train",
    "generate cat --preset demo --out x",
    "generate cat --set model.path=owner/none --out x",
    "eval --preset demo --out x/eval.json",
    "probe --preset demo --out x",
    "merge x --preset demo --lora owner/none",
    "convert owner/none x",
    "convert node_modules/b2-diffurl/models x --dtype float16",
    "compare x demo --seeds 1",
  ];
  for (const args of needing) {
    it(`b2 ${args} says so in one sentence and writes nothing`, async () => {
      const { code, stdout, stderr } = await b2Of(project, unset, ...args.split(" "));
      assert.deepEqual(
        { code, stdout, stderr: stderr.replace(/^(loading|\d+ roots|[\d,]+ passes) .*\n/gm, "") },
        { code: 2, stdout: "", stderr: NOT_BUILT },
      );
      assert.ok(!existsSync(join(project.folder, "x")));
    });
  }

  for (const args of ["--help", "presets", "config --preset demo", "prompts", "run x --preset demo --dry-run"]) {
    it(`b2 ${args} works`, async () => {
      const { code, stderr } = await b2Of(project, unset, ...args.split(" "));
      assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
    });
  }
});

describe("with an addon that can't be used, b2 says", () => {
  const library = { file: "", bytes: 3 };

  /** A build in the package, and what b2 says of it. */
  async function said(build: object, variables: NodeJS.ProcessEnv = {}): Promise<string> {
    write("some/build.json", { root: project.folder, kind: "release", ...build });
    write("some/torch.node", "no library");
    write("current.json", { root: project.folder });
    const { code, stdout, stderr } = await b2Of(project, { ...unset, ...variables }, "generate", "cat", "--out", "x");
    assert.deepEqual([code, stdout], [2, ""]);
    return stderr;
  }

  it("that it does not load", async () => {
    assert.match(await said({}), /^b2: The native addon does not load: .+\. Run: npx b2 setup\n$/);
  });

  it("that its libtorch is gone", async () => {
    library.file = join(project.folder, "gone.so");
    assert.equal(
      await said({ library }),
      `b2: The libtorch that the native addon was built for, ${project.folder}, is not there any more. Run: npx b2 setup\n`,
    );
  });

  it("that its libtorch is another one now", async () => {
    library.file = join(project.folder, "other.so");
    writeFileSync(library.file, "four");
    assert.equal(
      await said({ library }),
      `b2: The libtorch in ${project.folder} is not the one any more that the native addon was built for. ` +
        `Run: npx b2 setup --libtorch ${project.folder}\n`,
    );
  });

  it("that it is out of date", async () => {
    assert.equal(
      await said({ sources: "of another version" }),
      "b2: The native addon is out of date: native/ has changed since it was built. " +
        `Run: npx b2 setup --libtorch ${project.folder}\n`,
    );
  });

  it("that it is not built for the libtorch in LIBTORCH", async () => {
    const other = temporaryFolder();
    assert.equal(
      await said({}, { LIBTORCH: other }),
      `b2: The native addon is not built for the libtorch that LIBTORCH names, ${other}. Run: npx b2 setup\n`,
    );
  });

  it("that a half-written record is no build", async () => {
    write("current.json", "{");
    const { code, stderr } = await b2Of(project, unset, "generate", "cat", "--out", "x");
    assert.deepEqual([code, stderr], [2, NOT_BUILT]);
  });
});

/** A folder that looks like a libtorch, as far as a setup looks before it compiles. */
function libtorchLike(version: string): string {
  const folder = temporaryFolder();
  const at = (path: string, text = ""): void => {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  };
  const parts = version
    .split(".")
    .map((number, i) => `#define TORCH_VERSION_${["MAJOR", "MINOR", "PATCH"][i]} ${number}\n`);
  at("include/torch/csrc/api/include/torch/version.h", parts.join(""));
  at("include/ATen/ATen.h");
  const suffix = process.platform === "darwin" ? "dylib" : "so";
  for (const name of ["torch", "torch_cpu", "c10"]) at(`lib/lib${name}.${suffix}`);
  return folder;
}

describe("b2 setup", () => {
  it("finds that all is up to date, and tells it as JSON", async () => {
    copyAddon(project);
    const { root } = JSON.parse(readFileSync(inBuild("current.json"), "utf8")) as { root: string };
    const { code, stdout, stderr } = await b2Of(project, unset, "setup", "--libtorch", root, "--json");
    assert.equal(code, 0, stderr);
    const events = stdout.trimEnd().split("\n");
    const { type, libtorch, files, built } = JSON.parse(events.at(-1)!) as {
      type: string;
      libtorch: { version: string; root: string; origin: string };
      files: readonly string[];
      built: boolean;
    };
    assert.match(libtorch.version, /^\d+\.\d+\.\d+$/);
    assert.deepEqual([type, libtorch.root, libtorch.origin, built], ["finished", root, "--libtorch", false]);
    assert.ok(files[0]!.startsWith(inBuild("")) && existsSync(files[0]!));
    const generated = await b2Of(project, unset, "generate", "a fox", "--preset", "demo", "--set", "sample.steps=1");
    assert.equal(generated.code, 0, generated.stderr);
  });

  it("does not let a setting of the environment hide the choice", async () => {
    copyAddon(project);
    const { root } = JSON.parse(readFileSync(inBuild("current.json"), "utf8")) as { root: string };
    const { code, stderr } = await b2Of(project, { ...unset, LIBTORCH: "/other" }, "setup", "--libtorch", root);
    assert.equal(code, 0, stderr);
    assert.match(stderr, /LIBTORCH is set, so b2 goes on using the libtorch in \/other/);
  });

  const refused: Record<string, { args?: string[]; variables?: NodeJS.ProcessEnv; says: RegExp }> = {
    "a word that it does not know": { args: ["--libtorch", "cu12x"], says: /Expected auto, python, .*received cu12x$/ },
    "a folder without a libtorch": {
      args: ["--libtorch", "./nothing"],
      says: /Expected a folder with a libtorch .* for --libtorch but received \.\/nothing$/,
    },
    "a folder without a libtorch in LIBTORCH": {
      variables: { LIBTORCH: "nothing" },
      says: /Expected a folder with a libtorch .* for LIBTORCH but received nothing$/,
    },
    "a word in B2_LIBTORCH": { variables: { B2_LIBTORCH: "12.6" }, says: /for B2_LIBTORCH but received 12\.6$/ },
    "a libtorch that is too old": {
      args: ["--libtorch", libtorchLike("1.12.1")],
      says: /Expected libtorch 1\.13 or later for --libtorch but \S+ has 1\.12\.1$/,
    },
    "python without a torch": {
      args: ["--libtorch", "python"],
      variables: { PATH: "/nowhere" },
      says: /Expected a torch .* in python3 .*pip install torch$/,
    },
  };
  for (const [name, { args = [], variables, says }] of Object.entries(refused)) {
    it(`refuses ${name}`, async () => {
      const { code, stdout, stderr } = await b2Of(project, { ...unset, ...variables }, "setup", ...args);
      assert.deepEqual([code, stdout], [2, ""]);
      assert.match(stderr.trimEnd(), says);
      assert.doesNotMatch(stderr, /\n +at /);
    });
  }

  const skip = process.platform === "linux" ? false : "no Linux";

  /** A setup with this compiler. */
  const compiledBy = (compiler: string): Promise<Outcome> =>
    b2Of(project, { ...unset, CXX: compiler }, "setup", "--libtorch", libtorchLike("2.13.0"));

  it("says what is missing where there is no compiler", { skip }, async () => {
    const { code, stderr } = await compiledBy("/nowhere/g++");
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Building the native addon takes a C\+\+ compiler and make\. Install them .*\n$/m);
    assert.ok(stderr.trimEnd().split("\n").length <= 3, stderr);
  });

  it("gives the compiler's first complaint where it fails, and the file with all of them", { skip }, async () => {
    const compiler = join(temporaryFolder(), "c++");
    const complaint = "../native/addon.cc:4:10: fatal error: napi.h: No such file or directory";
    const script = `#!/bin/sh\nprintf '%s\\n' "$@" >> "$0.args"\necho '${complaint}' >&2\nexit 1\n`;
    writeFileSync(compiler, script, { mode: 0o755 });
    const { code, stderr } = await compiledBy(compiler);
    assert.equal(code, 2);
    const [, said, log] = /^b2: The native addon did not compile: (.*) \(all of it in (.*)\)$/m.exec(stderr) ?? [];
    assert.equal(said, complaint);
    assert.match(readFileSync(log!, "utf8"), /gyp/);
    // It was shown where Node-API's headers are.
    const shown = readFileSync(`${compiler}.args`, "utf8")
      .split("\n")
      .filter((arg) => arg.startsWith("-I"));
    assert.ok(
      shown.some((arg) => existsSync(join(dirname(log!), "build", arg.slice(2), "napi.h"))),
      shown.join("\n"),
    );
    assert.ok(stderr.trimEnd().split("\n").length <= 3, stderr);
  });

  it("ends its compilers when it is interrupted, and leaves no build", { skip, timeout: 120_000 }, async () => {
    const folder = temporaryFolder();
    const [compiler, started] = [join(folder, "c++"), join(folder, "pid")];
    writeFileSync(compiler, `#!/bin/sh\necho $$ > ${started}\nexec sleep 600\n`, { mode: 0o755 });
    const args = [join(project.installed, "bin/b2.js"), "setup", "--libtorch", libtorchLike("2.13.0")];
    const child = spawn(process.execPath, args, { env: { ...process.env, ...unset, CXX: compiler }, stdio: "ignore" });
    while (!existsSync(started) || readFileSync(started, "utf8") === "") await sleep(20);
    child.kill("SIGINT");
    const [code] = (await once(child, "exit")) as [number | null];
    assert.equal(code, 130);
    const running = join("/proc", readFileSync(started, "utf8").trim());
    while (existsSync(running)) await sleep(20);
    assert.ok(!existsSync(inBuild("current.json")));
  });
});

describe(
  "an official libtorch",
  { skip: spawnSync("python3", ["--version"]).status === 0 ? false : "no python3" },
  () => {
    const archive = join(temporaryFolder(), "libtorch.zip");
    const server = createServer((request, response) => {
      const whole = readFileSync(archive);
      asked.push(String(request.url));
      response.writeHead(200, { "content-length": whole.length });
      if (isBroken) response.write(whole.subarray(0, 100), () => response.destroy());
      else response.end(whole);
    });
    let isBroken = false;
    let asked: string[] = [];

    before(async () => {
      const libtorch = libtorchLike("2.13.0");
      renameSync(libtorch, join(dirname(archive), "libtorch"));
      execFileSync("python3", ["-m", "zipfile", "-c", archive, "libtorch"], { cwd: dirname(archive) });
      await once(server.listen(0, "127.0.0.1"), "listening");
    });
    after(() => server.close());
    beforeEach(() => (asked = []));

    /** A setup that downloads from the server here, and has no compiler. */
    async function download(cache: string): Promise<string> {
      const { port } = server.address() as AddressInfo;
      const here = `const { fetch } = globalThis;
      globalThis.fetch = (url, options) =>
        fetch(url.replace("https://download.pytorch.org", "http://127.0.0.1:${port}"), options);`;
      const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(here)}`;
      const variables = { ...unset, NODE_OPTIONS, XDG_CACHE_HOME: cache, CXX: "/nowhere/g++" };
      const { code, stderr } = await b2Of(project, variables, "setup", "--libtorch", "cpu");
      assert.equal(code, 2);
      return stderr;
    }

    const skip = process.platform === "linux" && process.arch === "x64" ? false : "other archives";

    it("is downloaded once", { skip }, async () => {
      const cache = temporaryFolder();
      assert.match(await download(cache), /Using libtorch 2\.13\.0 from \S+ \(downloaded\)/);
      assert.match(asked.join(), /^\/libtorch\/cpu\/libtorch-shared-with-deps-\d+\.\d+\.\d+%2Bcpu\.zip$/);
      assert.match(await download(cache), /Using libtorch 2\.13\.0 from \S+ \(downloaded before\)/);
      assert.equal(asked.length, 1);
      const [folder, ...others] = readdirSync(join(cache, "b2-diffurl"));
      assert.match(String(folder), /^libtorch-[\d.]+-cpu$/);
      assert.deepEqual(others, []);
    });

    it("of which half has come is thrown away, and the reason said", { skip }, async () => {
      const cache = temporaryFolder();
      isBroken = true;
      const said = await download(cache);
      assert.match(
        said,
        /^The download did not work: \S.*\.\nb2: Expected the official libtorch "cpu" for --libtorch/m,
      );
      assert.deepEqual(readdirSync(join(cache, "b2-diffurl")), []);
    });
  },
);

describe("the install script", () => {
  const LIBTORCH = "/no/libtorch";
  const install = (...args: string[]): Promise<Outcome> =>
    node(project, { ...unset, LIBTORCH }, join(project.installed, "scripts/install.mjs"), ...args);

  it("of the package does not fail an install, and says what is left to do", async () => {
    const { scripts } = JSON.parse(readFileSync(join(project.installed, "package.json"), "utf8")) as {
      scripts: { install: string };
    };
    const [command, file, ...args] = scripts.install.split(" ");
    assert.deepEqual([command, file], ["node", "scripts/install.mjs"]);
    const { code, stdout, stderr } = await install(...args);
    assert.equal(code, 0);
    assert.match(stderr, /^Expected a folder with a libtorch .* for LIBTORCH but received \/no\/libtorch\n$/);
    assert.match(stdout, /without its native addon.*npx b2 setup\n$/);
  });

  it("run by hand fails where it fails", async () => {
    const { code, stderr } = await install();
    assert.equal(code, 1);
    assert.match(stderr, /^Expected a folder with a libtorch .*\n$/);
  });
});

describe("an addon that was built", () => {
  it("is out of date once its sources have changed", async () => {
    copyAddon(project);
    const source = join(project.installed, "native/addon.cc");
    const text = readFileSync(source);
    appendFileSync(source, "// changed\n");
    try {
      const { code, stderr } = await b2Of(project, unset, "generate", "cat", "--preset", "demo");
      assert.deepEqual([code, stderr.slice(0, 39)], [2, "b2: The native addon is out of date: na"]);
    } finally {
      writeFileSync(source, text);
    }
  });
});
