/** What `npm publish` would send: what a user needs, nothing that only the repository needs, and that it works elsewhere. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it, test } from "node:test";
import { b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { b2Of, copyAddon, installInto, node, type Project } from "./support/installed.js";

/** Every file below a folder, as its path from the repository's root. */
function filesIn(folder: string): string[] {
  return readdirSync(join(repository, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(repository.length + 1));
}

describe("the published package", () => {
  let published: Set<string>;

  before(() => {
    // What is in dist/ is packed as it is: the tests have just compiled it.
    const packed = execFileSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
      cwd: repository,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [{ files }] = JSON.parse(packed) as [{ files: { path: string }[] }];
    published = new Set(files.map(({ path }) => path));
  });

  it("holds no tests, no fixtures, no source maps, and none of the repository's own programs", () => {
    const unwanted = [...published].filter(
      (path) =>
        /\.(test|fixture)\.|\.map$/.test(path) || /^(dist\/)?(test|bench)\/|^dist\/(examples|scripts)\//.test(path),
    );
    assert.deepEqual(unwanted, []);
    const scripts = [...published].filter((path) => path.includes("scripts/"));
    assert.deepEqual(
      scripts.filter((path) => path !== "scripts/install.mjs" && !path.startsWith("scripts/libtorch/")),
      [],
    );
  });

  it("holds both licences, and what its pages begin with", () => {
    for (const path of ["LICENSE", "LICENSE-artwork", "README.md", "CHANGELOG.md", "package.json"]) {
      assert.ok(published.has(path), path);
    }
  });

  it("holds the sources of the addon and all that builds them", () => {
    const wanted = [...filesIn("native"), ...filesIn("scripts/libtorch"), "scripts/install.mjs", "binding.gyp"];
    assert.deepEqual(
      wanted.filter((path) => !published.has(path)),
      [],
    );
  });

  it("holds the embedded models and the lists of prompts whole", () => {
    const models = filesIn("models");
    assert.ok(models.some((path) => path.endsWith(".safetensors")));
    assert.deepEqual(
      [...models, ...filesIn("prompts")].filter((path) => !published.has(path)),
      [],
    );
  });

  it("holds every module beside its types and its source, and what package.json names", () => {
    const sources = filesIn("src").filter((path) => path.endsWith(".ts") && !/\.(test|fixture)\./.test(path));
    const wanted = sources.flatMap((path) => {
      const compiled = join("dist", path.replace(/\.ts$/, ""));
      return [path, `${compiled}.js`, `${compiled}.d.ts`];
    });
    const { bin, exports } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8")) as {
      bin: Record<string, string>;
      exports: Record<string, string | Record<string, string>>;
    };
    const named = [bin, ...Object.values(exports)]
      .flatMap((entry) => (typeof entry === "string" ? [entry] : Object.values(entry)))
      .map((path) => path.replace(/^\.\//, ""));
    assert.deepEqual(
      [...wanted, ...named].filter((path) => !published.has(path)),
      [],
    );
  });

  it("holds nothing that is made on a machine", () => {
    assert.ok(existsSync(join(repository, "build")));
    assert.deepEqual(
      [...published].filter((path) => /^(build|runs|node_modules)\/|\.tsbuildinfo$/.test(path)),
      [],
    );
  });
});

describe("the package in a project of its own", () => {
  let project: Project;

  before(() => {
    project = installInto(temporaryFolder());
    copyAddon(project);
  });

  /** Compiles the project's main.ts as strictly as a project can, and gives what the compiler says. */
  async function compile(program: string, types: readonly string[]): Promise<string> {
    writeFileSync(join(project.folder, "main.ts"), program);
    const compilerOptions = {
      target: "ES2023",
      module: "NodeNext",
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      skipLibCheck: false,
      typeRoots: [join(repository, "node_modules/@types")],
      types,
    };
    writeFileSync(join(project.folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["main.ts"] }));
    const { stdout } = await node(project, {}, join(repository, "node_modules/typescript/bin/tsc"));
    return stdout;
  }

  /** The program of the README about a reward of one's own. */
  function readmeProgram(): string {
    const readme = readFileSync(join(project.installed, "README.md"), "utf8");
    const [program] = [...readme.matchAll(/```ts\n([^]*?)```/g)].map(([, text = ""]) => text);
    assert.match(program ?? "", /Trainer\.open\(.*presets\.demo/);
    return program!;
  }

  it("has types for each of its entries, with and without those of Node", async () => {
    const program = `
      import { presets, resolveConfig, type Config } from "b2-diffurl";
      import { Linear } from "b2-diffurl/nn";
      import { ones, type Tensor } from "b2-diffurl/torch";
      export const config: Config = resolveConfig(presets.demo);
      export const forward = (layer: Linear): Tensor => layer.forward(ones([1]));
      // @ts-expect-error -- not a size
      ones("1");
    `;
    for (const types of [["node"], []]) assert.equal(await compile(program, types), "", types.join());
  });

  it("trains with the README's program", async () => {
    const small = `resolveConfig(presets.demo, {
      stages: 1,
      prompts: { train: ["a cat"], heldOut: null },
      sample: { steps: 2, rootsPerStage: 1, batchSize: 4 },
      train: { samplesPerUpdate: 2, microBatch: 4 },
    })`;
    const program = `
      import { resolveConfig } from "b2-diffurl";
      const askMyServer = (pixels: ArrayLike<number | bigint>, prompts: readonly string[]): Promise<number[]> =>
        Promise.resolve(prompts.map((_, i) => Number(pixels[i])));
      ${readmeProgram().replace("presets.demo", small)}
      console.log(JSON.stringify(trainer.run.metrics().map(({ stage, updates }) => [stage, updates])));
      trainer.dispose();
    `;
    assert.equal(await compile(program, ["node"]), "");
    const { code, stdout, stderr } = await node(project, {}, "main.js");
    assert.equal(code, 0, stderr);
    const [[stage, updates] = []] = JSON.parse(stdout) as number[][];
    assert.equal(stage, 0);
    assert.ok(updates! > 0, stdout);
    assert.ok(existsSync(join(project.folder, "runs/mine/stages/0000/pytorch_lora_weights.safetensors")));
  });

  it("has a command line", async () => {
    const args = ["generate", "a fox", "--preset", "demo", "--set", "sample.steps=1", "--out", "images"];
    const { code, stdout, stderr } = await b2Of(project, {}, ...args);
    assert.deepEqual([code, stdout], [0, "1 images in images\n"], stderr);
  });

  it("has pages whose links lead somewhere, but for what only the repository has", async () => {
    const script = join(repository, "scripts/check-links.mjs");
    const pages = ["README.md", "CHANGELOG.md", "docs"].map((page) => join(project.installed, page));
    const { stdout, stderr } = await node(project, {}, script, ...pages);
    assert.match(stdout, /^\d{2,} links of \d{2} pages/);
    const dead = stderr.split("\n").filter((line) => line !== "");
    assert.deepEqual(
      dead.filter(
        (line) => !/ (\.\.\/)?(CONTRIBUTING|bench\/README|test\/README)\.md\S*: there is no such file$/.test(line),
      ),
      [],
    );
  });
});

test("an older Node is told which one is needed", async () => {
  const { engines } = JSON.parse(readFileSync(join(repository, "package.json"), "utf8")) as {
    engines: { node: string };
  };
  assert.equal(engines.node, ">=20.19");
  for (const [version, isOld] of Object.entries({
    "18.20.8": true,
    "20.18.3": true,
    "20.19.0": false,
    "24.0.0": false,
  })) {
    const pretend = `Object.defineProperty(process.versions, "node", { value: "${version}" })`;
    const { code, stdout, stderr } = await b2With(
      { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(pretend)}` },
      "presets",
    );
    const told = isOld ? `b2: Expected Node 20.19 or newer but this is Node ${version}\n` : "";
    assert.deepEqual([code, stderr, stdout !== ""], [isOld ? 2 : 0, told, !isOld]);
  }
});
