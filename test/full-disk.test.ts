// A disk that is really full: a small tmpfs, which only root can mount.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { b2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { runContents } from "./support/run-contents.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const disk = join(folder, "disk");
mkdirSync(disk);
const mount = (...options: string[]): boolean =>
  spawnSync("mount", ["-t", "tmpfs", "-o", options.join(","), "none", disk], { stdio: "ignore" }).status === 0;
const isMounted = process.getuid?.() === 0 && mount("size=400k");
after(() => isMounted && spawnSync("umount", ["-l", disk]));

describe("a full disk", { skip: !isMounted && "only root can mount one" }, () => {
  const config = join(folder, "config.json");
  const values = { ...tinyValues, model: { ...tinyValues.model, threads: 1 }, rewards: ["brightness"] };
  writeFileSync(config, JSON.stringify({ ...values, record: { images: 2, phases: "always" } }));
  const run = join(disk, "run");

  it("stops a run with a sentence, at whatever it writes, and it goes on when there is room", async () => {
    const whole = join(folder, "whole");
    assert.equal((await b2("run", whole, "--config", config)).code, 0);
    const refused: string[] = [];
    // Room for less than a config, for a part of a stage, for one stage and a part of the next.
    for (const size of ["4k", "100k", "400k", "760k"]) {
      assert.ok(mount("remount", `size=${size}`));
      const { code, stderr } = await b2("run", run, "--config", config);
      assert.equal(code, 2, `${size}: ${stderr}`);
      const sentence = /^b2: .*(the disk is full; make room and repeat the command|ENOSPC).*$/m.exec(stderr);
      assert.ok(sentence !== null, stderr);
      refused.push(sentence[0]);
      assert.doesNotMatch(stderr, /\n +at /);
      const files = readdirSync(disk, { recursive: true, encoding: "utf8" });
      assert.deepEqual(
        files.filter((name) => /tmp$|lock/.test(name)),
        [],
        size,
      );
    }
    assert.ok(new Set(refused.map((line) => /\S+\.(json|safetensors|jsonl|png)\b/.exec(line)?.[0])).size > 1, refused.join("\n"));
    assert.deepEqual(new RunReader(run).finishedStages(), [0]);
    assert.ok(mount("remount", "size=8m"));
    const { code, stderr } = await b2("run", run, "--config", config);
    assert.equal(code, 0, stderr);
    assert.deepEqual(runContents(run), runContents(whole));
    assert.equal(readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n").length, 2);
  });

  it("that becomes read-only stops it too", async () => {
    assert.ok(mount("remount", "ro"));
    const { code, stderr } = await b2("run", run, "--set", "stages=3");
    assert.equal(code, 2, stderr);
    assert.match(stderr, /^b2: Expected .*(read-only|EROFS).*$/m);
    assert.ok(mount("remount", "rw"));
  });
});
