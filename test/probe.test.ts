// What the last steps decide: rewards whose answer is known, and `b2 probe` as a process.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { z } from "zod";
import { Policy } from "../src/b2/policy/policy.js";
import { probeCost, probeRoots, type ProbedRoot, type ProbePlan } from "../src/b2/probe/branching.js";
import { measureShares, type ShareEstimate } from "../src/b2/probe/shares.js";
import { silent, type Progress } from "../src/base/progress.js";
import type { ProbeReport } from "../src/eval/probe-report.js";
import { RewardSet } from "../src/rewards/index.js";
import {
  DDIMScheduler,
  parseSchedulerConfig,
  registerScheduler,
  type DDIMStep,
  type Transition,
} from "../src/schedulers/index.js";
import { liveTensors, type Tensor } from "../src/torch/index.js";
import { b2 } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { redness, tinyConfig, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

/** A probe of the narrow model: four steps, eight roots of three branches. */
const plan: ProbePlan = {
  stage: 0,
  prompts: ["a cat", "a dog", "a cat", "a dog", "a cat", "a dog", "a cat", "a dog"],
  splits: [1, 2, 3, 4],
  branches: 3,
};
const config = tinyConfig({ model: { threads: 1 }, sample: { guidanceScale: 1, batchSize: 12 } });

async function probe(reward: typeof redness, own: Partial<ProbePlan> = {}, layer: object = {}): Promise<ProbedRoot[]> {
  const layered = tinyConfig(config, layer);
  const policy = Policy.forInference(layered);
  const roots: ProbedRoot[] = [];
  try {
    const rewards = RewardSet.of(reward);
    for await (const some of probeRoots(policy, rewards, { ...plan, ...own }, layered, { progress: silent })) {
      roots.push(...some);
    }
  } finally {
    policy.dispose();
  }
  return roots;
}

const sharesOf = (roots: readonly ProbedRoot[]): (number | null)[] =>
  measureShares(roots, "reward", plan.splits, 1).shares.map(({ share }) => share);

/** DDIM that changes some of its transitions: t is the timestep, first and last those of four steps. */
function variant(
  name: string,
  step: (scheduler: DDIMScheduler, options: DDIMStep, first: number, last: number) => Transition,
): void {
  class Variant extends DDIMScheduler {
    override step(options: DDIMStep): Transition {
      const timesteps = this.timesteps(options.numInferenceSteps);
      return step(new DDIMScheduler(this.config), options, timesteps[0]!, timesteps.at(-1)!);
    }
  }
  registerScheduler({
    name,
    summary: name,
    options: z.object({}),
    open: (given, _, source) => {
      return new Variant(parseSchedulerConfig(given, source));
    },
  });
}

describe("what the last steps decide", () => {
  it("is nothing where noise falls at the start alone", async () => {
    variant("early", (ddim, options, first) => ddim.step({ ...options, eta: options.timestep === first ? 1 : 0 }));
    const shares = sharesOf(await probe(redness, {}, { scheduler: { name: "early" } }));
    // Rows of a batch are rounded differently.
    assert.deepEqual(
      shares.map((share) => Number(share!.toFixed(6))),
      [0, 0, 0, 1],
    );
  });

  it("is everything where the last step draws the picture anew", async () => {
    variant("late", (ddim, options, _, last) => {
      const transition = ddim.step(options);
      return options.timestep === last ? { ...transition, prevSample: options.noise!.clone() } : transition;
    });
    const own = { prompts: Array.from({ length: 48 }, () => "a cat"), splits: [1, 4] };
    const roots = await probe(redness, own, { scheduler: { name: "late" } });
    const [{ share, low, high }] = measureShares(roots, "reward", own.splits, 1).shares as [ShareEstimate];
    assert.ok(share! > 0.6 && low! <= 1 && high! >= 1, `${low} ${share} ${high}`);
  });

  it("cannot be asked of a sampler without noise", async () => {
    variant("never", (ddim, options) => ddim.step({ ...options, eta: 0 }));
    await assert.rejects(probe(redness, {}, { scheduler: { name: "never" } }), /Expected a scheduler that draws noise/);
  });

  it("is not there where the prompt decides the reward", async () => {
    const length = (_: Tensor, prompts: string[] = []): Promise<number[]> =>
      Promise.resolve(prompts.map((p) => p.length));
    assert.deepEqual(sharesOf(await probe(length)), [null, null, null, null]);
  });
});

describe("a probe", () => {
  it("gives the same values in other batches and from any root on, up to rounding, and leaves no tensors", async () => {
    const before = liveTensors();
    const whole = await probe(redness);
    assert.equal(liveTensors(), before);
    const apart = await probe(redness, {}, { sample: { batchSize: 2, decodeBatchSize: 1 } });
    const flat = (roots: readonly ProbedRoot[]): number[] => roots.flatMap(({ values }) => values["reward"]!.flat(2));
    flat(whole).forEach((value, i) => assert.ok(Math.abs(value - flat(apart)[i]!) < 1e-5));
    assert.equal(new Set(flat(whole)).size, 8 * 4 * 3, "no two images are the same");
  });

  it("costs what was said before", async () => {
    let images = 0;
    let steps = 0;
    const policy = Policy.forInference(config);
    const progress: Progress = {
      ...silent,
      task: () => ({ advance: (amount) => (steps += amount), done: () => undefined }),
    };
    const counting = (batch: Tensor): Promise<number[]> => {
      images += batch.size(0);
      return redness(batch);
    };
    const probing = probeRoots(policy, RewardSet.of(counting), plan, config, { progress });
    for await (const roots of probing) assert.equal(roots.length, 4);
    policy.dispose();
    assert.deepEqual(probeCost(plan), { steps, images });
    assert.deepEqual({ steps, images }, { steps: 8 * 3 + 8 * 3 * 10, images: 8 * 3 * 4 });
  });
});

describe("b2 probe", () => {
  const module = join(folder, "reward.mjs");
  const log = join(folder, "calls");
  // Interrupts the process at its third call while there is a file that says so.
  writeFileSync(
    module,
    `import { appendFileSync, existsSync, readFileSync, rmSync } from "node:fs";
     export default async (images, prompts) => {
       appendFileSync(${JSON.stringify(log)}, "x");
       if (existsSync(${JSON.stringify(log)} + ".stop") && readFileSync(${JSON.stringify(log)}).length === 3) {
         rmSync(${JSON.stringify(log)} + ".stop");
         process.kill(process.pid, "SIGINT");
         await new Promise((done) => setTimeout(done, 50));
       }
       return images.mean({ dim: [1, 2, 3] }).toArray();
     };`,
  );
  const file = join(folder, "config.json");
  writeFileSync(file, JSON.stringify({ ...tinyValues, rewards: [{ name: "module", path: module }] }));
  const args = ["probe", "--config", file, "--roots", "6", "--branches", "2", "--splits", "2"];
  const calls = (): number => (existsSync(log) ? readFileSync(log).length : 0);
  const read = (out: string): ProbeReport => JSON.parse(readFileSync(join(out, "probe.json"), "utf8")) as ProbeReport;

  it("says what it costs, without a reading of the model", async () => {
    const { code, stdout } = await b2(...args, "--out", join(folder, "dry"), "--dry-run");
    assert.equal(code, 0);
    // 6 roots of 2 steps, and 12 branches of 2 and of 4 steps; guidance passes each twice.
    assert.match(stdout, /6 roots of 3 prompts, 2 branches each from the last 2, 4 steps:\n168 passes .*, 24 images/);
    assert.ok(!existsSync(join(folder, "dry")));
  });

  it("prints a table and a proposal, and writes a file and a picture; interrupted, it goes on", async () => {
    const whole = join(folder, "whole");
    const { code, stdout, stderr } = await b2(...args, "--out", whole);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^last s of 4 +reward +roots that differ\n/);
    assert.match(stdout, /\n4 +100% \(100 to 100%\) +100%\n/);
    assert.match(stdout, /--set interval.first=\d --set interval.last=4\n/);
    assert.match(stderr, /2 of 6 roots took .*; about .* left/);
    const png = readFileSync(join(whole, "probe.png"));
    assert.equal(png.subarray(1, 4).toString(), "PNG");
    assert.equal(calls(), 6);

    const parts = join(folder, "parts");
    writeFileSync(log, "");
    writeFileSync(`${log}.stop`, "");
    const stopped = await b2(...args, "--out", parts);
    assert.equal(stopped.code, 130, stopped.stderr);
    assert.match(stopped.stderr, /The same command goes on with the next roots/);
    const resumed = await b2(...args, "--out", parts);
    assert.equal(resumed.code, 0, resumed.stderr);
    assert.equal(calls(), 3 + 4, "the first roots are not probed again");
    const [a, b] = [read(whole), read(parts)];
    assert.deepEqual({ ...b, cost: a.cost }, a);
    assert.ok(!existsSync(join(parts, "probe.partial.json")));
  });

  it("refuses splits that cannot be", async () => {
    const tooMany = await b2(...args, "--splits", "5");
    assert.equal(tooMany.code, 2);
    assert.match(tooMany.stderr, /Expected at most sample.steps, 4, for --splits but received 5/);
    const words = await b2(...args, "--splits", "few");
    assert.equal(words.code, 2);
    assert.match(words.stderr, /Expected numbers of steps such as 6,10,14, or all, but received few/);
  });
});
