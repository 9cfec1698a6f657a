// A device without enough memory: batches are halved once, the run says so, and results are those of the halves.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { describe, it } from "node:test";
import { promisify } from "node:util";
import type { Notice } from "../src/base/progress.js";
import { isOutOfMemory, TorchError } from "../src/torch/index.js";
import { repository } from "./support/folders.js";

interface Result {
  readonly isSame: boolean;
  readonly received: string;
  readonly halved: Readonly<Record<string, number>>;
  readonly halvedBatches?: Readonly<Record<string, number>>;
  readonly notices: readonly Notice[];
}

const fixture = join(repository, "dist/test/out-of-memory.fixture.js");
const run = async (phase: string, rows: number): Promise<Result> => {
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--single-threaded-gc", fixture, phase, String(rows)],
    // Arenas of threads would take address space.
    { env: { ...process.env, MALLOC_ARENA_MAX: "1" } },
  );
  return JSON.parse(stdout) as Result;
};

const phases = {
  sampling: ["sample.batchSize", "latents"],
  decoding: ["sample.decodeBatchSize", "images to decode"],
  updating: ["train.microBatch", "pairs to train on"],
} as const;

describe("a batch that runs out of memory", { concurrency: 2 }, () => {
  for (const [phase, [key, what]] of Object.entries(phases)) {
    it(`is made again in halves, in ${phase}`, async () => {
      const { isSame, received, halved, notices } = await run(phase, 6);
      assert.deepEqual(halved, { [key]: 4 }, received);
      assert.ok(isSame, received);
      assert.equal(notices.length, 1);
      assert.equal(notices[0]!.kind, "out-of-memory");
      assert.ok(notices[0]!.text.startsWith(`out of memory with 8 ${what} at once; trying again with 4, `));
      assert.match(notices[0]!.text, / \(aten::empty.*(can.t allocate|out of) memory/);
    });
  }

  it("is halved once: half a batch that is too much as well ends the work", async () => {
    const { received, halved, notices } = await run("decoding", 2);
    assert.match(received, /^out of memory: /);
    assert.deepEqual(halved, { "sample.decodeBatchSize": 4 });
    assert.equal(notices.length, 1);
  });

  it("is noted in the stage's metrics of a run, whose weights are those of the smaller batches", async () => {
    const { isSame, received, halvedBatches } = await run("run", 6);
    assert.deepEqual(halvedBatches, { "sample.batchSize": 4, "sample.decodeBatchSize": 4, "train.microBatch": 4 });
    assert.ok(isSame, received);
  });
});

it("is known by what libtorch says of a GPU and of the CPU", () => {
  assert.ok(isOutOfMemory(new TorchError("aten::conv2d: CUDA out of memory. Tried to allocate 2.00 GiB.")));
  assert.ok(isOutOfMemory(new TorchError("aten::add: std::bad_alloc")));
  assert.ok(!isOutOfMemory(new TorchError("aten::add: Expected a Tensor")));
});
