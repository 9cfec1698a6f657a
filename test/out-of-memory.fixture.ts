/**
 * Runs out of memory for real: does its work in batches of half the size, measures what that takes, forbids itself much
 * more address space, and does the work in whole batches. Prints what it was told, and whether the results are those of
 * the halves, as JSON. Needs `MALLOC_MMAP_THRESHOLD_=65536`, so that memory which is freed is given back.
 *
 *     node out-of-memory.fixture.js sampling|decoding|updating <share>
 *
 * `share`: how much more memory there is the second time, in terms of what a half took.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeSync } from "node:fs";
import { Policy, sampleBranches, updatePolicy, type BranchBatch, type Config } from "../src/b2/index.js";
import { decodeInBatches } from "../src/b2/rollout/decode.js";
import { silent, type Notice } from "../src/base/progress.js";
import { peakMemory, resetPeakMemory } from "../src/doctor/peak-memory.js";
import { AdamW } from "../src/optim/index.js";
import { isOutOfMemory, randn, Generator, tidy, type Tensor } from "../src/torch/index.js";
import { tinyConfig } from "./support/tiny.js";

const [phase, share] = process.argv.slice(2);
const ROWS = 8;
const SIDE = phase === "updating" ? 128 : 256;

const notices: Notice[] = [];
const context = { progress: { ...silent, warn: (notice: Notice) => void notices.push(notice) } };
const configOf = (rows: number): Config =>
  tinyConfig({
    model: { height: SIDE, width: SIDE, threads: 1 },
    sample: { steps: 2, batchSize: rows, decodeBatchSize: rows, guidanceScale: 1 },
    interval: { first: 1, last: 1 },
    train: { microBatch: rows, samplesPerUpdate: ROWS, epochs: 1 },
  });
const policy = Policy.forTraining(configOf(1));
const prompts = ["a cat", "a dog", "red apple", "red cat"];
const digest = (...tensors: Tensor[]): string => {
  const hash = createHash("sha256");
  for (const tensor of tensors) hash.update(Buffer.from((tensor.toTypedArray() as Float32Array).buffer));
  return hash.digest("hex");
};

const sampled = (rows: number): Promise<BranchBatch> =>
  sampleBranches(policy, { stage: 0, prompts, interval: 1 }, configOf(rows), context);

async function work(rows: number): Promise<string> {
  switch (phase) {
    case "sampling": {
      const { latents, logProbs } = await sampled(rows);
      return digest(latents, logProbs!);
    }
    case "decoding": {
      const latents = randn([ROWS, ...policy.latentShape], { generator: new Generator(1) });
      const parts: string[] = [];
      await decodeInBatches(policy, latents, { batchSize: rows, ...context }, (images) => {
        for (let row = 0; row < images.size(0); row++) parts.push(tidy(() => digest(images.select(0, row))));
      });
      return parts.join();
    }
    default: {
      trainSet ??= await sampled(1);
      const advantages = trainSet.keys.map((_, i) => (i % 2 ? 1 : -1));
      const gradients: string[] = [];
      const optimizer = new AdamW(policy.parameters);
      optimizer.step = () => void gradients.push(digest(...[...policy.parameters.values()].map((p) => p.grad!)));
      await updatePolicy(policy, { optimizer }, { ...trainSet, advantages }, configOf(rows), context);
      return gradients.join();
    }
  }
}
let trainSet: BranchBatch | undefined;

await work(1);
resetPeakMemory();
const before = peakMemory();
const expected = await work(ROWS / 2);
const half = peakMemory() - before;
const [, mapped] = /VmSize:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
const limit = Math.round(Number(mapped) * 1024 + half * Number(share));
execFileSync("prlimit", ["--pid", String(process.pid), `--as=${limit}:`]);
let received: string;
try {
  received = await work(ROWS);
} catch (error) {
  received = isOutOfMemory(error) ? "out of memory" : String(error);
}
const result = {
  isSame: received === expected,
  received: received.slice(0, 300),
  halved: policy.batches.halved,
  notices,
};
writeSync(1, JSON.stringify({ ...result, half: half / 2 ** 20 }));
process.exit();
