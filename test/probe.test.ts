// What the last steps decide: rewards whose answer is known, and `b2 probe` as a process.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { z } from "zod";
import { estimate } from "../src/b2/dry-run.js";
import { parseAssignments, resolveConfig, Trainer } from "../src/b2/index.js";
import { Policy } from "../src/b2/policy/policy.js";
import { probeCost, probeRoots, type ProbedRoot, type ProbePlan } from "../src/b2/probe/branching.js";
import { measuredSteps } from "../src/b2/probe/measured.js";
import { measureShares, type ShareEstimate } from "../src/b2/probe/shares.js";
import { silent, type Progress } from "../src/base/progress.js";
import type { ProbeReport } from "../src/eval/probe-report.js";
import { RewardSet } from "../src/rewards/index.js";
import { NO_COST, RunReader, type IntervalMeasurement } from "../src/runs/index.js";
import {
  DDIMScheduler,
  parseSchedulerConfig,
  registerScheduler,
  type DDIMStep,
  type Transition,
} from "../src/schedulers/index.js";
import { liveTensors, type Tensor } from "../src/torch/index.js";
import { b2, warmB2 } from "./support/cli.js";
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
  measureShares(roots, "reward", plan.splits).shares.map(({ share }) => share);

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
    const [{ share, low, high }] = measureShares(roots, "reward", own.splits).shares as [ShareEstimate];
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
    assert.deepEqual(probeCost({ ...plan, roots: 8 }), { steps, images });
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
    const { code, stdout } = await warmB2(...args, "--out", join(folder, "dry"), "--dry-run");
    assert.equal(code, 0);
    // 6 roots of 2 steps, and 12 branches of 2 and of 4 steps; guidance passes each twice.
    assert.match(stdout, /6 roots of 3 prompts, 2 branches each from the last 2, 4 steps:\n168 passes .*, 24 images/);
    assert.ok(!existsSync(join(folder, "dry")));
  });

  it("prints a table and a proposal, and writes a file and a picture; interrupted, it goes on", async () => {
    const whole = join(folder, "whole");
    const { code, stdout, stderr } = await warmB2(...args, "--out", whole);
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
    const tooMany = await warmB2(...args, "--splits", "5");
    assert.equal(tooMany.code, 2);
    assert.match(tooMany.stderr, /Expected at most sample.steps, 4, for --splits but received 5/);
    const words = await warmB2(...args, "--splits", "few");
    assert.equal(words.code, 2);
    assert.match(words.stderr, /Expected numbers of steps such as 6,10,14, or all, but received few/);
  });
});

describe("interval: measured", () => {
  const measuring = {
    stages: 3,
    model: { threads: 1 },
    sample: { guidanceScale: 1 },
    interval: "measured",
    record: { images: 0 },
  };
  const options = { interval: { every: 2, roots: 3, branches: 2, splits: 2 } };
  const loras = (run: string): string[] => {
    const reader = new RunReader(run);
    return reader.finishedStages().map((stage) => {
      return createHash("sha256")
        .update(readFileSync(reader.stagePath(stage, "lora")))
        .digest("hex");
    });
  };
  const train = async (
    run: string,
    layers: object[],
    reward: typeof redness,
    signal?: AbortSignal,
  ): Promise<string> => {
    const lines: string[] = [];
    const progress: Progress = { ...silent, log: (line) => lines.push(line) };
    const trainer = await Trainer.open(run, tinyConfig(measuring, options, ...layers), { reward, progress, signal });
    try {
      await trainer.runAll();
    } finally {
      trainer.dispose();
    }
    return lines.join("\n");
  };

  it("is short for a mode whose ends are not given as well", () => {
    const { interval } = tinyConfig({ interval: "measured" });
    assert.deepEqual([interval.mode, interval.first, interval.last], ["measured", null, null]);
    assert.deepEqual(resolveConfig(parseAssignments(["interval=measured"])).interval.mode, "measured");
    assert.throws(
      () => tinyConfig({ interval: "guessed" }),
      /Expected fixed or measured for interval.mode but received "guessed"/,
    );
    assert.throws(
      () => resolveConfig({ interval: "measured" }, { interval: { first: 3 } }),
      /Expected null for interval.first with interval.mode "measured", which measures it, but received 3/,
    );
    assert.throws(
      () => resolveConfig({ interval: { roots: 3 } }),
      /Expected no interval.roots for interval.mode "fixed"/,
    );
  });

  it("trains what was measured, counts it, and resumes to the same bits without measuring again", async () => {
    const whole = join(folder, "measured");
    const log = await train(whole, [], redness);
    assert.match(
      log,
      /^before stage 0 the last \d of 4 steps decide \d+% of the reward's variance; .* grows .* to 4\n/,
    );
    const run = new RunReader(whole);
    assert.deepEqual(
      [0, 1, 2].map((stage) => run.interval(stage) !== undefined),
      [true, false, true],
    );
    const measured = run.interval(0)!;
    // 3 roots of 2 steps, then 6 branches of 2 and of 4.
    assert.deepEqual([measured.cost.queries, measured.cost.forwardPasses], [12, 42]);
    const metrics = run.metrics();
    assert.equal(metrics[0]!.trainedSteps, measured.first);
    assert.deepEqual(
      metrics.map(({ cost }) => cost!.queries),
      [18, 24, 42],
    );
    assert.deepEqual(estimate(tinyConfig(measuring, options)).images, 42);

    // Cut off within stage 2, after its measurement.
    const cut = join(folder, "measured-cut");
    cpSync(whole, cut, { recursive: true });
    rmSync(join(cut, "stages", "0002"), { recursive: true });
    const before = readFileSync(join(cut, "intervals", "0002.json"), "utf8");
    assert.equal(await train(cut, [], redness), "");
    assert.deepEqual(loras(cut), loras(whole));
    assert.equal(readFileSync(join(cut, "intervals", "0002.json"), "utf8"), before);
    assert.deepEqual(
      new RunReader(cut).metrics().map(({ cost }) => cost!.queries),
      [18, 24, 42],
    );

    // Cut off before it.
    rmSync(join(cut, "stages", "0002"), { recursive: true });
    rmSync(join(cut, "intervals", "0002.json"));
    await train(cut, [], redness);
    assert.deepEqual(loras(cut), loras(whole));
  });

  it("warns where there is nothing to measure, and trains the whole trajectory", async () => {
    const run = join(folder, "constant");
    const log = await train(run, [{ stages: 1 }], (images) =>
      Promise.resolve(Array.from({ length: images.size(0) }, () => 1)),
    );
    assert.match(log, /^warning: before stage 0 all images of a prompt have the same reward/);
    assert.equal(new RunReader(run).metrics()[0]!.trainedSteps, 4);
  });

  it("grows from each measurement over the stages that are left, and never shrinks", () => {
    const at = (stage: number, first: number, last: number): IntervalMeasurement => {
      return { stage, first, last, shares: [], cost: NO_COST };
    };
    const all = (measurements: IntervalMeasurement[], skipLast = 0): number[] =>
      Array.from({ length: 8 }, (_, stage) => measuredSteps(stage, measurements, { stages: 8, skipLast }));
    assert.deepEqual(all([at(0, 3, 6)]), [3, 3, 4, 4, 5, 5, 6, 6]);
    assert.deepEqual(all([at(0, 3, 6), at(4, 6, 7)]), [3, 3, 4, 4, 6, 6, 7, 7]);
    assert.deepEqual(all([at(0, 3, 6), at(4, 1, 2)]), [3, 3, 4, 4, 4, 4, 4, 4]);
    assert.deepEqual(all([at(0, 3, 3)], 4), [5, 5, 5, 5, 5, 5, 5, 5]);
    // A run of four stages that was given four more.
    const grown = (...measurements: IntervalMeasurement[]): number[] =>
      Array.from({ length: 8 }, (_, stage) => measuredSteps(stage, measurements, { stages: 4, skipLast: 0 }));
    assert.deepEqual(grown(at(0, 3, 6)), [3, 4, 5, 6, 6, 6, 6, 6]);
    assert.deepEqual(grown(at(0, 3, 6), at(6, 2, 7)), [3, 4, 5, 6, 6, 6, 7, 7]);
  });
});
