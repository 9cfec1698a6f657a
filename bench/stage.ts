/**
 * One stage of training, timed: seconds of sampling, scoring and training, images and pairs per second, and the share
 * of the machine's matmul peak that the UNet reaches.
 *
 *     npm run build && node dist/bench/stage.js [--preset demo-b2] [--set key=value ...] [--rounds 1] [--clock wall]
 *       [--python python3]
 *
 * The first stage warms up and makes Adam's moments; then `--rounds` stages are timed and summed. With `--python`,
 * a Python with torch and safetensors, PyTorch does every stage too (bench/stage_torch.py), with the same weights and
 * counts, in turn, so that a busy machine slows both. On a machine that is always busy, `--set model.threads=1
 * --clock cpu` compares the CPU time of the two.
 *
 * The peak is that of a 1024 x 1024 matmul in this process. Floating-point operations are counted at the calls into
 * libtorch (bench/flops.ts). A training pair counts as two forward passes: its own, and the gradient of the
 * activations; frozen weights get none.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  disposeRecord,
  parseAssignments,
  presets,
  resolveConfig,
  Trainer,
  type Config,
  type Policy,
  type PresetName,
} from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { listOf } from "../src/base/show.js";
import { costBetween, type StageMetrics } from "../src/runs/index.js";
import { inference, numThreads, randn, torchVersion } from "../src/torch/index.js";
import { countFlops } from "./flops.js";
import { matmulPeak, parseClock, secondsBy } from "./machine.js";
import { PyTorchStage, type Seconds } from "./pytorch-stage.js";

const { values } = parseArgs({
  options: {
    preset: { type: "string", default: "demo-b2" },
    set: { type: "string", multiple: true },
    rounds: { type: "string", default: "1" },
    clock: { type: "string", default: "wall" },
    python: { type: "string" },
  },
});

const clock = parseClock(values.clock);
const now = (): number => secondsBy(clock);

/** Floating-point operations of a prediction for one latent; two passes with guidance. */
function forwardFlops(policy: Policy): number {
  return inference(() => {
    const x = randn([1, ...policy.latentShape]);
    const conditioning = policy.conditioning(["a"]);
    return countFlops(() => policy.predict(x, policy.timesteps[0]!, conditioning));
  });
}

/** A stage of ours: its counts, and the seconds of its phases. */
interface Timed {
  readonly metrics: StageMetrics;
  /** Pairs of each optimiser step. */
  readonly updates: readonly number[];
  readonly seconds: Seconds;
}

async function timedStage(trainer: Trainer, stage: number): Promise<Timed> {
  trainer.writer.beginStage(stage);
  const before = trainer.spent();
  const marks = [now()];
  const branches = await trainer.sample(stage);
  marks.push(now());
  const scored = await trainer.score(branches);
  marks.push(now());
  const trainSet = trainer.select(scored);
  const start = now();
  const updates = await trainer.update(trainSet);
  const seconds = { sample: marks[1]! - marks[0]!, score: marks[2]! - marks[1]!, train: now() - start };
  const metrics = trainer.record({
    scored,
    trainSet,
    updates,
    seconds: { ...seconds, rewards: scored.rewardSeconds },
    cost: costBetween(before, trainer.spent()),
  });
  [trainSet, branches].forEach(disposeRecord);
  return { metrics, updates: updates.map(({ pairs }) => pairs), seconds };
}

/** The work of the timed stages, the same on both sides. */
interface Counts {
  /** Predictions of the UNet for one latent. */
  readonly steps: number;
  readonly images: number;
  readonly pairs: number;
}

function countsOf({ sample }: Config, stages: readonly Timed[]): Counts {
  const sum = (of: (metrics: StageMetrics) => number): number =>
    stages.reduce((total, { metrics }) => total + of(metrics), 0);
  return {
    steps: sum(({ images, trainedSteps: s }) => sample.rootsPerStage * (sample.steps - s) + images * s),
    images: sum(({ images }) => images),
    pairs: sum(({ pairs }) => pairs),
  };
}

const phases = ["sample", "score", "train"] as const;

const total = (stages: readonly Seconds[]): Seconds => ({
  sample: stages.reduce((sum, { sample }) => sum + sample, 0),
  score: stages.reduce((sum, { score }) => sum + score, 0),
  train: stages.reduce((sum, { train }) => sum + train, 0),
});

/** The throughput of a side, phase by phase. */
function describe(
  { steps, images, pairs }: Counts,
  { sample, score, train }: Seconds,
  flops: number,
  peak: number,
): Record<(typeof phases)[number], string> {
  const share = (operations: number, seconds: number): string => {
    const rate = operations / seconds / 1e9;
    return `${rate.toFixed(1)} GFLOP/s, ${((100 * rate) / peak).toFixed(0)}% of peak`;
  };
  return {
    sample: `${sample.toFixed(2)} s, ${(steps / sample).toFixed(0)} steps/s, ${share(flops * steps, sample)}`,
    score: `${score.toFixed(2)} s, ${(images / (sample + score)).toFixed(1)} images/s sampled and scored`,
    train: `${train.toFixed(2)} s, ${(pairs / train).toFixed(0)} pairs/s, ${share(2 * flops * pairs, train)}`,
  };
}

async function main(folder: string): Promise<void> {
  const { preset } = values;
  if (!Object.hasOwn(presets, preset)) {
    throw new InputError(`Expected ${listOf(Object.keys(presets))} for --preset but received ${preset}`);
  }
  const rounds = Number(values.rounds);
  // No PNG files, because PyTorch's side writes none.
  const given = { stages: rounds + 1, eval: { enabled: false }, record: { images: 0 } };
  const config = resolveConfig(presets[preset as PresetName], given, parseAssignments(values.set ?? []));
  const trainer = await Trainer.open(join(folder, "run"), config);
  const { policy, rewards } = trainer;
  const prompts = trainer.prompts.slice(0, 256);
  const torch =
    values.python === undefined
      ? undefined
      : await PyTorchStage.start(values.python, { policy, rewards, config, prompts, clock, folder });
  const ours: Timed[] = [];
  const theirs: Seconds[] = [];
  for (let stage = 0; stage <= rounds; stage++) {
    const timed = await timedStage(trainer, stage);
    const other = await torch?.run(timed.metrics.trainedSteps, timed.updates);
    if (stage === 0) continue;
    ours.push(timed);
    if (other !== undefined) theirs.push(other);
  }
  torch?.stop();

  const peak = matmulPeak({ n: 1024, clock });
  const flops = forwardFlops(policy);
  const counts = countsOf(config, ours);
  const row = (name: string, text: string): void => console.log(`${name.padEnd(18)} ${text}`);
  row("libtorch", `${torchVersion()}, ${numThreads()} threads, ${values.clock} clock`);
  row("model", `${config.model.path}, ${config.model.dtype}, ${(flops / 1e6).toFixed(0)} MFLOP per prediction`);
  row("matmul peak", `${peak.toFixed(1)} GFLOP/s`);
  row("work", `${rounds} stages: ${counts.steps} steps, ${counts.images} images, ${counts.pairs} pairs`);
  const mine = total(ours.map(({ seconds }) => seconds));
  const lines = describe(counts, mine, flops, peak);
  for (const phase of phases) row(phase, lines[phase]);
  const { residentMegabytes, liveTensors } = ours.at(-1)!.metrics;
  row("memory", `${residentMegabytes.toFixed(0)} MB resident, ${liveTensors} live tensors`);
  if (torch === undefined) return;
  const { version, errors } = torch.greeting;
  const rival = total(theirs);
  const rivalLines = describe(counts, rival, flops, peak);
  row(
    "PyTorch",
    `${version}; predictions differ by ${errors.prediction.toExponential(1)} of their scale, ` +
      `scores by ${errors.score.toExponential(1)}`,
  );
  for (const phase of phases) row(`  ${phase}`, rivalLines[phase]);
  const all = ({ sample, score, train }: Seconds): number => sample + score + train;
  row(
    "ours / PyTorch",
    [
      ...phases.map((phase) => `${phase} ${(mine[phase] / rival[phase]).toFixed(2)}`),
      `stage ${(all(mine) / all(rival)).toFixed(2)}`,
    ].join(", "),
  );
}

const scratch = mkdtempSync(join(tmpdir(), "b2-bench-"));
try {
  await main(scratch);
} finally {
  rmSync(scratch, { recursive: true });
}
