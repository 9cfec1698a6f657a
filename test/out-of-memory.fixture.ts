/**
 * Runs out of memory for real: the model's passes take 128 MiB more for each row, and the process forbids itself more than
 * room for so many rows. Does its work in batches of 4 without that bound and in batches of 8 with it, and prints what was
 * told and whether the results are the same, as JSON.
 *
 *     node out-of-memory.fixture.js sampling|decoding|updating|run <rows>
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Policy, sampleBranches, Trainer, updatePolicy, type BranchBatch, type Config } from "../src/b2/index.js";
import { decodeInBatches } from "../src/b2/rollout/decode.js";
import { silent, type Notice } from "../src/base/progress.js";
import { AdamW } from "../src/optim/index.js";
import type { DiffusionModel } from "../src/pipeline/index.js";
import { empty, Generator, isOutOfMemory, randn, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig } from "./support/tiny.js";

const [phase, rows] = process.argv.slice(2);
const [HALF, WHOLE] = [4, 8];
const ROW_BYTES = 128 * 2 ** 20;

const notices: Notice[] = [];
const context = { progress: { ...silent, warn: (notice: Notice) => void notices.push(notice) } };
const configOf = (rows: number, learnsFrom: object = {}): Config =>
  tinyConfig(
    {
      stages: 1,
      model: { threads: 1 },
      sample: { batchSize: rows, decodeBatchSize: rows, rootsPerStage: 4 },
      select: { mode: "all" },
      train: { microBatch: rows, samplesPerUpdate: 4, epochs: 2, oldLogProbs: "recomputed" },
    },
    learnsFrom,
  );

/** Makes the passes of a model take memory: of a GPU the most is taken by what passes keep, of so small a model nothing. */
function takingMemory(model: DiffusionModel): void {
  const [predict, decode] = [model.predict.bind(model), model.decode.bind(model)];
  const take = (x: Tensor): Tensor => empty([x.size(0), ROW_BYTES / 4]);
  Object.assign(model, {
    predict: (...[x, ...others]: Parameters<typeof predict>) => {
      take(x).dispose();
      return predict(x, ...others);
    },
    decode: (x: Tensor) => {
      take(x).dispose();
      return decode(x);
    },
  });
}

function bound(): void {
  const [, mapped] = /VmSize:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
  const limit = Number(mapped) * 1024 + Number(rows) * ROW_BYTES;
  execFileSync("prlimit", ["--pid", String(process.pid), `--as=${limit}:`]);
}

const digest = (...tensors: readonly Tensor[]): string => {
  const hash = createHash("sha256");
  for (const tensor of tensors) hash.update(new Float32Array(tensor.toArray()));
  return hash.digest("hex");
};

const prompts = ["a cat", "a dog", "red apple", "red cat"];
const policy = Policy.forTraining(configOf(1));
takingMemory(policy.model);

/** Of final latents alone, steps overwrite the state that they begin with. */
const sampled = (rows: number, data: "transitions" | "final-latents" = "transitions"): Promise<BranchBatch> =>
  sampleBranches(policy, { stage: 0, prompts, interval: 2, data }, configOf(rows), context);

async function work(rows: number): Promise<string> {
  switch (phase) {
    case "sampling": {
      const [{ latents, logProbs }, finals] = [await sampled(rows), await sampled(rows, "final-latents")];
      return digest(latents, logProbs!, finals.latents);
    }
    case "decoding": {
      const latents = randn([WHOLE, ...policy.latentShape], { generator: new Generator(1) });
      const parts: string[] = [];
      await decodeInBatches(policy, latents, { batchSize: rows, ...context }, (images, start) => {
        for (let row = 0; row < images.size(0); row++) {
          parts.push(`${start + row} ${tidy(() => digest(images.select(0, row).contiguous()))}`);
        }
      });
      return parts.join();
    }
    case "updating": {
      trainSet ??= await sampled(1);
      const advantages = trainSet.keys.map((_, i) => (i % 2 ? 1 : -1));
      const optimizer = new AdamW(policy.parameters);
      const gradients: string[] = [];
      optimizer.step = () => void gradients.push(digest(...[...policy.parameters.values()].map((p) => p.grad!)));
      const updates = await updatePolicy(policy, { optimizer }, { ...trainSet, advantages }, configOf(rows), context);
      return JSON.stringify([gradients, updates]);
    }
    case undefined:
    default: {
      const options = { reward: redness, ...context };
      const trainer = await Trainer.open(join(temporaryFolder(), "run"), configOf(rows), options);
      takingMemory(trainer.policy.model);
      if (rows === WHOLE) bound();
      await trainer.runAll();
      const { rewardMean, loss, gradNorm, halvedBatches } = trainer.run.stageMetrics(0);
      if (rows === WHOLE) Object.assign(result, { halvedBatches });
      return digest(...trainer.policy.parameters.values()) + JSON.stringify([rewardMean, loss, gradNorm]);
    }
  }
}
let trainSet: BranchBatch | undefined;
const result = {};

// Loads Node's HTTP parser, which reserves gigabytes of addresses, and which Node may otherwise load at any time.
await fetch("data:,");
await sleep(100);
const expected = await work(HALF);
if (phase !== "run") bound();
let received: string;
try {
  received = await work(WHOLE);
} catch (error) {
  received = isOutOfMemory(error) ? `out of memory: ${error.message.split("\n", 1)[0]}` : String(error);
}
const { halved } = policy.batches;
writeSync(1, JSON.stringify({ ...result, isSame: received === expected, received, halved, notices }));
process.exit();
