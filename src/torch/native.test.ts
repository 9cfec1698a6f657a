/** The addon is loaded at its first use, and what is missing is said in one sentence. Each in a process of its own. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, describe, it } from "node:test";
import { pathToFileURL } from "node:url";

const source = resolve(import.meta.dirname, "..");
const empty = mkdtempSync(join(tmpdir(), "no-libtorch-"));
after(() => rmSync(empty, { recursive: true }));

/** What a program prints as JSON. */
function run(program: string, environment: NodeJS.ProcessEnv = {}): unknown {
  const child = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
    encoding: "utf8",
    env: { ...process.env, ...environment },
  });
  assert.equal(child.status, 0, child.stderr);
  return JSON.parse(child.stdout);
}

interface State {
  mapped: string[];
  variables: object;
}

const entries = { torch: join(source, "torch/index.js"), "the package": join(source, "index.js") };
/** Which of libtorch's and the addon's files are in this process. */
const MAPPED = `(await import("node:fs")).readFileSync("/proc/self/maps", "utf8").match(/libtorch\\S*|torch\\.node/g) ?? []`;

describe("importing loads nothing", { skip: process.platform === "linux" ? false : "no /proc" }, () => {
  for (const [name, file] of Object.entries(entries)) {
    it(`of ${name}; the first use does`, () => {
      const unset = { OMP_WAIT_POLICY: undefined, GOMP_SPINCOUNT: undefined, NVIDIA_TF32_OVERRIDE: undefined };
      const [before, after] = run(
        `
        await import(${JSON.stringify(pathToFileURL(file).href)});
        const state = async () => {
          const { GOMP_SPINCOUNT, NVIDIA_TF32_OVERRIDE } = process.env;
          return { mapped: ${MAPPED}, variables: { GOMP_SPINCOUNT, NVIDIA_TF32_OVERRIDE } };
        };
        const { ones } = await import(${JSON.stringify(pathToFileURL(entries.torch).href)});
        const before = await state();
        ones([2]).add(1);
        console.log(JSON.stringify([before, await state()]));`,
        unset,
      ) as [State, State];
      assert.deepEqual(before, { mapped: [], variables: {} });
      assert.ok(after.mapped.includes("torch.node"), after.mapped.join());
      assert.deepEqual(after.variables, { GOMP_SPINCOUNT: "10000", NVIDIA_TF32_OVERRIDE: "0" });
    });
  }
});

/** The error that a first use meets twice: its name, whether it is the user's to mend, its message. */
const problems = (first: string, environment: NodeJS.ProcessEnv): unknown =>
  run(
    `
      const torch = await import(${JSON.stringify(pathToFileURL(entries.torch).href)});
      const { InputError } = await import(${JSON.stringify(pathToFileURL(join(source, "base/errors.js")).href)});
      let problem;
      for (let i = 0; i < 2; i++) try { ${first} } catch (error) { problem = error; }
      console.log(JSON.stringify([problem?.name, problem instanceof InputError, problem?.message]));`,
    environment,
  );

describe("without a build", () => {
  for (const first of ["torch.ones([2])", "torch.tensor([1])", "new torch.Generator(1)", "torch.torchVersion()"]) {
    it(`${first} says how to get one, each time`, () => {
      assert.deepEqual(problems(first, { LIBTORCH: empty, B2_ADDON: "" }), [
        "AddonError",
        true,
        `The native addon is not built for the libtorch that LIBTORCH names, ${empty}. Run: npx b2 setup`,
      ]);
    });
  }

  it("of the kind that is asked for", () => {
    assert.deepEqual(problems("torch.ones([2])", { LIBTORCH: empty, B2_ADDON: "debug" }), [
      "AddonError",
      true,
      `There is no debug build of the native addon for ${empty}. Run in a checkout: node scripts/install.mjs --debug`,
    ]);
  });
});

describe("the environment's choice", () => {
  const builds = resolve(source, "../../build");

  it("of a libtorch is the same through a link", () => {
    const { root } = JSON.parse(readFileSync(join(builds, "current.json"), "utf8")) as { root: string };
    const link = join(empty, "link");
    symlinkSync(process.env["LIBTORCH"] || root, link);
    assert.deepEqual(problems("torch.ones([2])", { LIBTORCH: link, B2_ADDON: "" }), [null, false, null]);
  });

  it("of a build that does not load is said, with the reason", () => {
    const broken = mkdtempSync(join(builds, "broken-"));
    try {
      writeFileSync(join(broken, "torch.node"), "no library");
      writeFileSync(join(broken, "build.json"), JSON.stringify({ root: realpathSync(empty), kind: "release" }));
      const [name, isInput, message] = problems("torch.ones([2])", { LIBTORCH: empty, B2_ADDON: "" }) as string[];
      assert.deepEqual([name, isInput], ["AddonError", true]);
      assert.match(message!, /^The native addon does not load: .*broken-.*torch\.node: .+\. Run: npx b2 setup$/);
    } finally {
      rmSync(broken, { recursive: true });
    }
  });
});
