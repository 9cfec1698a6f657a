/** `npm run build` leaves in dist/ what the sources say, whatever was there before. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { repository, temporaryFolder } from "./support/folders.js";

describe("scripts/compile.mjs", () => {
  const folder = temporaryFolder();
  const at = (path: string): string => join(folder, path);
  const compile = (): { status: number | null; output: string } => {
    const run = spawnSync(process.execPath, [join(repository, "scripts/compile.mjs"), folder], { encoding: "utf8" });
    return { status: run.status, output: run.stdout };
  };

  before(() => {
    mkdirSync(at("src"));
    const compilerOptions = { rootDir: ".", outDir: "dist", tsBuildInfoFile: "dist/.tsbuildinfo" };
    writeFileSync(
      at("tsconfig.json"),
      JSON.stringify({
        compilerOptions: { ...compilerOptions, target: "ES2023", types: [], incremental: true, declaration: true },
        include: ["src"],
      }),
    );
    writeFileSync(at("src/kept.ts"), "export const kept = 1;\n");
    writeFileSync(at("src/gone.test.ts"), "export const gone = 1;\n");
    assert.equal(compile().status, 0);
    assert.ok(existsSync(at("dist/src/kept.js")) && existsSync(at("dist/src/gone.test.js")));
  });

  it("removes what was compiled from a source that is gone, and leaves what is up to date alone", () => {
    rmSync(at("src/gone.test.ts"));
    const made = statSync(at("dist/src/kept.js")).mtimeMs;
    assert.equal(compile().status, 0);
    assert.ok(!existsSync(at("dist/src/gone.test.js")) && !existsSync(at("dist/src/gone.test.d.ts")));
    assert.equal(statSync(at("dist/src/kept.js")).mtimeMs, made);
  });

  it("makes again what was removed from dist/, though no source has changed", () => {
    rmSync(at("dist/src/kept.js"));
    assert.equal(compile().status, 0);
    assert.match(readFileSync(at("dist/src/kept.js"), "utf8"), /kept = 1/);
  });

  it("fails where the types do not hold", () => {
    writeFileSync(at("src/kept.ts"), 'export const kept: number = "1";\n');
    const { status, output } = compile();
    assert.notEqual(status, 0);
    assert.match(output, /kept\.ts.*TS2322/);
  });
});
