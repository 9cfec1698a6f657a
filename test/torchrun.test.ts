// torchrun itself as the launcher, where python's torch brings it: on the PATH, or named by TORCHRUN.
import assert from "node:assert/strict";
import { spawnSync, type SpawnSyncReturns } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { distributedBackends, torchVersion } from "../src/torch/index.js";
import { b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const torchrun = process.env["TORCHRUN"] ?? "torchrun";
const found = spawnSync(torchrun, ["--help"]).status === 0;
const skip = !found ? "there is no torchrun" : distributedBackends().length === 0 && "the addon is built without Gloo";

const folder = temporaryFolder();
const config = join(folder, "config.json");
const sample = { ...tinyValues.sample, batchSize: 1 };
writeFileSync(config, JSON.stringify({ ...tinyValues, stages: 1, rewards: ["brightness"], sample }));

// The store's protocol has changed: an agent of 2.x serves workers of 2.x only. Rank 0 serves the others then.
const variables = torchVersion().startsWith("1.") ? { TORCH_DISABLE_SHARE_RDZV_TCP_STORE: "1" } : {};

const underTorchrun = (...args: string[]): SpawnSyncReturns<string> =>
  spawnSync(
    torchrun,
    [
      ...["--standalone", "--nproc-per-node=2", "--no-python", process.execPath, join(repository, "bin/b2.js")],
      ...["run", ...args],
    ],
    { encoding: "utf8", env: { ...process.env, ...variables }, timeout: 120_000 },
  );

test("torchrun starts workers, which give the samples of one process", { skip }, async () => {
  const [one, two] = [join(folder, "one"), join(folder, "two")];
  assert.equal((await b2With({ B2_THREADS: "1" }, "run", one, "--config", config)).code, 0);
  const { status, stderr } = underTorchrun(two, "--config", config);
  assert.equal(status, 0, stderr);
  const samples = (run: string): string => readFileSync(new RunReader(run).stagePath(0, "samples"), "utf8");
  assert.equal(samples(two), samples(one));
});

test("torchrun prints why a worker failed", { skip }, () => {
  const { status, stderr } = underTorchrun(
    join(folder, "bad"),
    "--config",
    config,
    "--set",
    "prompts.train=/nowhere.txt",
  );
  assert.notEqual(status, 0);
  assert.match(stderr, /nowhere\.txt/);
});
