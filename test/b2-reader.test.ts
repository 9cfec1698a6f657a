// A run folder is read without libtorch, and what is not a run folder is refused.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RunError, RunReader } from "../src/runs/reader.js";
import { RunWriter } from "../src/runs/writer.js";
import { repository, temporaryFolder } from "./support/folders.js";

test("the reader does not load libtorch", () => {
  const folder = join(temporaryFolder(), "run");
  RunWriter.create(folder, { config: { seed: 1 }, reward: "config" });
  const program = `
    const { RunReader } = await import(${JSON.stringify(join(repository, "dist/src/runs/reader.js"))});
    console.log(JSON.stringify(new RunReader(${JSON.stringify(folder)}).config()));`;
  const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    encoding: "utf8",
    env: { ...process.env, LIBTORCH: "/no/such/libtorch" },
  });
  assert.equal(stdout, '{"seed":1}\n', stderr);
});

test("other folders, later versions and damaged files are refused", () => {
  assert.throws(() => new RunReader("/no/such/run"), /Expected a run folder/);
  const folder = join(temporaryFolder(), "run");
  const begun = { config: {}, reward: "config" } as const;
  const run = RunWriter.create(folder, begun).reader;
  assert.throws(() => RunWriter.create(folder, begun), /Expected a folder without a run/);
  assert.deepEqual(run.finishedStages(), []);
  assert.throws(() => run.samples(0), RunError);
  writeFileSync(join(folder, "run.json"), JSON.stringify({ format: "b2-run", version: 99 }));
  assert.throws(() => new RunReader(folder), /Expected a version up to 2/);
  writeFileSync(join(folder, "run.json"), "{");
  assert.throws(() => new RunReader(folder), /run.json: Expected JSON/);
});
