// Groups of real processes: every operation gives what it should, and whoever is missing is named.
import assert from "node:assert/strict";
import { join } from "node:path";
import { afterEach, test } from "node:test";
import { repository } from "../../test/support/folders.js";
import { endWorkers, startWorkers } from "../../test/support/workers.js";
import { distributedBackends, tensor } from "../torch/index.js";
import { shareOf, SoloGroup } from "./index.js";
import { rewardRanksOf } from "./roles.js";

const skip = distributedBackends().length === 0 && "the addon is built without Gloo";
afterEach(endWorkers);

const fixture = join(repository, "dist/src/distributed/group.fixture.js");

/** What a worker printed about its failure. */
const failureOf = (lines: readonly string[]): { name: string; message: string } =>
  JSON.parse(lines.at(-1)!) as { name: string; message: string };

test(
  "three processes broadcast, gather, sum, wait, ask and answer, and JavaScript goes on meanwhile",
  { skip },
  async () => {
    const workers = await startWorkers(3, [fixture]);
    assert.deepEqual(await Promise.all(workers.map(({ ended }) => ended)), [0, 0, 0]);
    workers.forEach(({ lines }, rank) => {
      assert.deepEqual(JSON.parse(lines[0]!), {
        rank,
        size: 3,
        broadcast: [1, 1.5],
        gathered: [0, 1, 2].map((other) => [other, 2, 1, 3]),
        sum: [6, 60],
        both: [[3], [6]],
        json: ["", "é", "éé"].map((text, other) => ({ rank: other, text })),
      });
      const { told, ticked } = JSON.parse(lines[1]!) as { told: unknown; ticked: boolean };
      assert.deepEqual(told, { stage: 3 });
      // The last rank has kept the others waiting.
      if (rank < 2) assert.ok(ticked);
      if (rank === 2) return;
      assert.deepEqual(JSON.parse(lines[2]!), {
        both: ["part 0 of 2", "part 1 of 2"],
        answers: [
          `1 of rank ${rank}, numbered 1, with nothing`,
          `2 of rank ${rank}, numbered 2, with 1,2 ${rank} 2 1 3`,
        ],
      });
    });
  },
);

test("gradients are summed while backward goes on, also where a pass fails or there is none", { skip }, async () => {
  const workers = await startWorkers(3, [fixture, "gradients"]);
  const codes = await Promise.all(workers.map(({ ended }) => ended));
  assert.deepEqual(codes, [0, 0, 0], workers.map(({ lines }) => lines.join("\n")).join("\n\n"));
  workers.forEach(({ lines }, rank) => {
    const printed = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    const all = { sums: [[18], [18, 18], [1], null] };
    // Without the last rank.
    const two = { sums: [[9], [9, 9], [1], null] };
    // What has a gradient nowhere goes out at the end, and so does what comes after one that is missing here.
    const most = rank === 0 ? 3 : 2;
    assert.deepEqual(printed.slice(0, 4), [
      { what: "learning", sent: 0, ...two },
      { what: "sending", sent: rank === 2 ? 0 : most, ...all },
      { what: "sending", sent: most, ...all },
      { what: "failing", sent: most, ...all },
    ]);
    assert.match(String(printed[4]!["failure"]), /Expected 1 parts of the gradient .* but received one more/);
  });
});

for (const dead of [0, 1, 2]) {
  test(`a process that is killed is named by the others: rank ${dead}`, { skip }, async () => {
    const workers = await startWorkers(3, [fixture, "wait", String(dead)]);
    await Promise.all(workers.map(({ said }, rank) => said(rank === dead ? '"here"' : '"waiting"')));
    workers[dead]!.child.kill("SIGKILL");
    for (const [rank, { ended, lines }] of workers.entries()) {
      const code = await ended;
      if (rank === dead) continue;
      const { name, message } = failureOf(lines);
      assert.equal(code, 2);
      assert.equal(name, "WorkerError");
      assert.match(message, new RegExp(`rank ${dead} on `));
    }
  });

  test(`a process that is stopped is named by the others after the time-out: rank ${dead}`, { skip }, async () => {
    const workers = await startWorkers(3, [fixture, "wait", String(dead)], { GROUP_TIMEOUT: "3" });
    await Promise.all(workers.map(({ said }, rank) => said(rank === dead ? '"here"' : '"waiting"')));
    workers[dead]!.child.kill("SIGSTOP");
    const others = workers.filter((_, rank) => rank !== dead);
    for (const { ended, lines } of others) {
      assert.equal(await ended, 2);
      assert.match(failureOf(lines).message, new RegExp(`rank ${dead} on .* for [345] s`));
    }
  });
}

test("a process that gives up tells the others why", { skip }, async () => {
  const workers = await startWorkers(3, [fixture, "fail", "1"]);
  for (const rank of [0, 2]) {
    assert.equal(await workers[rank]!.ended, 2);
    const { message } = failureOf(workers[rank]!.lines);
    assert.equal(message, "Expected rank 1 to go on but it has stopped: the reward is gone");
  }
});

test("a process that does not come is named, and a store that is not there too", { skip }, async () => {
  const workers = await startWorkers(3, [fixture], { GROUP_JOIN_TIMEOUT: "2" }, { ranks: [0, 1] });
  assert.deepEqual(await Promise.all(workers.map(({ ended }) => ended)), [2, 2]);
  for (const { lines } of workers) {
    const pattern =
      /^Expected (3 workers at 127\.0\.0\.1:\d+ within 2 s but rank 2 did not come$|the store at .* until all workers have come)/;
    assert.match(failureOf(lines).message, pattern);
  }
  assert.match(failureOf(workers[0]!.lines).message, /rank 2 did not come$/);
  const [alone] = await startWorkers(3, [fixture], { GROUP_JOIN_TIMEOUT: "2" }, { ranks: [1] });
  assert.equal(await alone!.ended, 2);
  assert.match(
    failureOf(alone!.lines).message,
    /^Expected the store of the workers, which rank 0 serves, at 127\.0\.0\.1:\d+ but received: /,
  );
});

test("a process alone needs no other", async () => {
  const group = new SoloGroup();
  const x = tensor([1, 2]);
  await group.allReduce_();
  const [copy] = await group.allGather(x);
  assert.deepEqual(copy!.toArray(), [1, 2]);
  assert.deepEqual(await group.allGatherJson("a"), ["a"]);
  assert.equal(await group.broadcastJson(3), 3);
});

test("shares are contiguous, cover everything once, and differ by at most one", () => {
  for (const [total, size] of [
    [7, 3],
    [2, 3],
    [0, 2],
    [6, 2],
  ] as const) {
    const shares = Array.from({ length: size }, (_, rank) => shareOf(total, { rank, size }));
    const items = shares.flatMap(({ start, length }) => Array.from({ length }, (_, i) => start + i));
    assert.deepEqual(
      items,
      Array.from({ length: total }, (_, i) => i),
    );
    const lengths = shares.map(({ length }) => length);
    assert.ok(Math.max(...lengths) - Math.min(...lengths) <= 1);
  }
});

test("the reward ranks are shared out evenly among those that train", () => {
  const all = (size: number, count: number): number[][] =>
    Array.from({ length: size }, (_, rank) => rewardRanksOf(rank, size, count));
  assert.deepEqual(all(4, 2), [[0], [1], [0], [1]]);
  assert.deepEqual(all(2, 2), [[0], [1]]);
  assert.deepEqual(all(2, 5), [
    [0, 2, 4],
    [1, 3],
  ]);
});
