// Two network namespaces as two hosts: workers meet over the network, and find out when it is cut.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { distributedBackends } from "../src/torch/index.js";
import { b2With } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const hosts = ["a", "b"].map((name) => `b2-${process.pid}-${name}`) as [string, string];
const cables = ["a", "b"].map((name) => `b2${process.pid}${name}`) as [string, string];
const addresses = ["10.231.87.1", "10.231.87.2"] as const;
const ip = (...args: string[]): void => void execFileSync("ip", args, { stdio: "pipe" });

const canMakeHosts = (): boolean => {
  if (process.getuid?.() !== 0 || spawnSync("ip", ["netns", "add", hosts[0]]).status !== 0) return false;
  ip("netns", "del", hosts[0]);
  return true;
};
const skip =
  (distributedBackends().length === 0 && "the addon is built without Gloo") ||
  (!canMakeHosts() && "network namespaces take root and iproute2");

const folder = temporaryFolder();
const config = join(folder, "config.json");
const sample = { ...tinyValues.sample, batchSize: 1 };
writeFileSync(config, JSON.stringify({ ...tinyValues, stages: 3, rewards: ["brightness"], sample }));
const running = new Set<number>();

/** `b2 launch` on one of the hosts; its output, and its exit code at last. */
function launchOn(
  host: 0 | 1,
  run: string,
): { ended: Promise<{ code: number | null; text: string }>; said: Promise<void> } {
  const child = spawn(
    "ip",
    [
      ...["netns", "exec", hosts[host], process.execPath, join(repository, "bin/b2.js"), "launch", "--processes=1"],
      ...["--nodes=2", `--node-rank=${host}`, `--master=${addresses[0]}:29500`, "--worker-timeout=5"],
      ...["--", "run", run, "--config", config],
    ],
    { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, B2_THREADS: "1" }, detached: true },
  );
  running.add(child.pid!);
  let text = "";
  let isTraining = (): void => undefined;
  const said = new Promise<void>((resolve) => (isTraining = resolve));
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data: Buffer) => {
      text += data.toString();
      if (/^stage 0 /m.test(text)) isTraining();
    });
  }
  const ended = once(child, "close").then(([code]) => {
    running.delete(child.pid!);
    return { code: code as number | null, text };
  });
  return { ended, said };
}

describe("two hosts", { skip }, () => {
  before(() => {
    for (const host of hosts) ip("netns", "add", host);
    ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1]);
    hosts.forEach((host, i) => {
      ip("link", "set", cables[i]!, "netns", host);
      ip("-n", host, "addr", "add", `${addresses[i]!}/24`, "dev", cables[i]!);
      ip("-n", host, "link", "set", cables[i]!, "up");
      ip("-n", host, "link", "set", "lo", "up");
    });
  });

  afterEach(() => {
    for (const pid of running) process.kill(-pid, "SIGKILL");
  });

  after(() => {
    for (const host of hosts) spawnSync("ip", ["netns", "del", host]);
  });

  test("workers of two hosts meet over the network, and give the samples of one process", async () => {
    const [one, two] = [join(folder, "one"), join(folder, "two")];
    assert.equal((await b2With({ B2_THREADS: "1" }, "run", one, "--config", config)).code, 0);
    const ends = await Promise.all(([0, 1] as const).map((host) => launchOn(host, two).ended));
    for (const { code, text } of ends) assert.equal(code, 0, text);
    const samples = (run: string): string => readFileSync(new RunReader(run).stagePath(0, "samples"), "utf8");
    assert.equal(samples(two), samples(one));
  });

  test("when the network is cut, each host says which rank it misses, and the run can go on", async () => {
    const run = join(folder, "cut");
    const launched = ([0, 1] as const).map((host) => launchOn(host, run));
    await launched[0]!.said;
    ip("-n", hosts[1], "link", "set", cables[1], "down");
    const [first, second] = await Promise.all(launched.map(({ ended }) => ended));
    assert.equal(first!.code, 2, first!.text);
    assert.match(first!.text, /Expected rank 1 on .* no sign of life/);
    assert.equal(second!.code, 2, second!.text);
    assert.match(second!.text, /Expected an answer of the store at 10\.231\.87\.1:29500, which rank 0 on/);
    const { code, stderr } = await b2With({ B2_THREADS: "1" }, "run", run);
    assert.equal(code, 0, stderr);
    assert.equal(new RunReader(run).finishedStages().length, 3);
  });
});
