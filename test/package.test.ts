/** What `npm publish` would send: what a user needs, and nothing that only the repository needs. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { repository } from "./support/folders.js";

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

  it("holds no tests, no fixtures, and none of the repository's own programs", () => {
    const unwanted = [...published].filter(
      (path) => /\.(test|fixture)\./.test(path) || /^(dist\/)?(test|bench|examples|docs)\//.test(path),
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
