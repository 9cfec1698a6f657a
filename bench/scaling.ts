/**
 * How a run scales with workers on this machine, over Gloo, phase by phase, and what the model on paper says (scaling/model.ts).
 *
 *     npm run build && node dist/bench/scaling.js [--workers 1,2] [--roots 12] [--stages 2] [--rounds 3]
 *       [--parameters lora,full] [--json FILE]
 *
 * Strong: the same stage for more workers. Weak: a stage that grows with them. Beside: as many trainings of one worker each
 * at once, which tells what busy cores take from each other. Each worker has one thread, so there should be as many idle
 * cores as workers. The embedded model trains much as in the preset demo-b2 (settings in scaling/job.ts). Rounds alternate
 * between all kinds, and figures are medians of all stages but the first of each training. The collectives alone are timed
 * too, and alpha and beta fitted.
 */
import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { torchVersion } from "../src/torch/index.js";
import { settings, timeCollectives, trainBesideEachOther, trainTogether, type CollectiveTime } from "./scaling/job.js";
import { median, medianParts, sentIn, stagesOf, totalOf, type Sent, type StageParts } from "./scaling/measured.js";
import {
  collectivesOf,
  computeOf,
  fitLink,
  pairsOfUpdates,
  secondsOf,
  trafficOf,
  type Collective,
  type Link,
  type StageWork,
  type UnitCosts,
} from "./scaling/model.js";
import { table } from "./scaling/table.js";

const { values } = parseArgs({
  options: {
    workers: { type: "string", default: "1,2" },
    roots: { type: "string", default: "12" },
    stages: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    parameters: { type: "string", default: "lora,full" },
    json: { type: "string" },
  },
});

type Parameters = "lora" | "full";

/** Trainings of one kind. */
interface Run {
  readonly kind: "alone" | "beside" | "strong" | "weak";
  readonly weights: Parameters;
  readonly workers: number;
  readonly roots: number;
  /** Of each round, its timed stages. */
  readonly rounds: StageParts[][];
  sent: readonly Sent[];
  /** Of the model, which a worker tells. */
  numbers: Pick<StageWork, "parameters" | "latentBytes">;
}

const roots = Number(values.roots);
const sizes = values.workers
  .split(",")
  .map(Number)
  .filter((size) => size > 1);
const stages = Number(values.stages) + 1;

const runs: Run[] = (values.parameters.split(",") as Parameters[]).flatMap((weights) => {
  const run = (kind: Run["kind"], workers: number, roots: number): Run => {
    return { kind, weights, workers, roots, rounds: [], sent: [], numbers: { parameters: 0, latentBytes: 0 } };
  };
  return [
    run("alone", 1, roots),
    ...sizes.flatMap((size) => [
      run("beside", size, roots),
      run("strong", size, roots),
      run("weak", size, roots * size),
    ]),
  ];
});

async function measure(run: Run): Promise<void> {
  const { kind, weights: parameters, workers, roots } = run;
  const training = { roots, stages, parameters } as const;
  if (kind === "beside") {
    const all = await trainBesideEachOther(workers, training);
    run.rounds.push(all.flatMap((times) => stagesOf([times])));
    return;
  }
  const times = await trainTogether(workers, training);
  run.rounds.push(stagesOf(times));
  run.sent = sentIn(times[0]!.stages[0]!);
  run.numbers = times[0]!;
}

/** Median seconds of a stage. */
const stageOf = ({ rounds }: Run): number => median(rounds.flat().map((stage) => totalOf(stage)));

/** How far the median of a round is from that of all, at most. */
const noiseOf = (run: Run): number =>
  Math.max(...run.rounds.map((round) => Math.abs(median(round.map((stage) => totalOf(stage))) / stageOf(run) - 1)));

const runOf = (kind: Run["kind"], weights: Parameters, workers?: number): Run =>
  runs.find((run) => run.kind === kind && run.weights === weights && (workers ?? run.workers) === run.workers)!;

/** Of one worker: a weak stage is N times its work in N times the workers. */
const efficiencyOf = (run: Run): number => {
  const ratio = stageOf(runOf("alone", run.weights)) / stageOf(run);
  return run.kind === "strong" ? ratio / run.workers : ratio;
};

/** What a stage of a run consists of. */
const workOf = ({ roots, numbers }: Run): StageWork => ({
  roots,
  branches: settings.branches,
  steps: settings.sample.steps,
  interval: settings.interval.last,
  trainedSteps: settings.interval.last - settings.interval.skipLast,
  sampleBatch: settings.sample.batchSize,
  decodeBatch: settings.sample.decodeBatchSize,
  selected: 2 * roots,
  ...settings.train,
  latentBytes: numbers.latentBytes,
  parameters: numbers.parameters,
});

type Clock = "compute" | "processor";

/** Of trainings by one worker. */
function costsOf(run: Run, clock: Clock): UnitCosts {
  const work = workOf(run);
  const { roots, branches, steps, interval } = work;
  const parts = medianParts(run.rounds.flat());
  const pairs = pairsOfUpdates(work).reduce((sum, each) => sum + each, 0);
  return {
    step: { row: parts.sample[clock] / (roots * (steps - interval) + roots * branches * interval), floor: 0 },
    image: { row: parts.score[clock] / (roots * branches), floor: 0 },
    pair: { row: parts.train[clock] / pairs, floor: 0 },
    update: 0,
    select: parts.select[clock] / roots,
    record: parts.record[clock],
  };
}

/** Seconds of compute of a stage on paper. */
function predictCompute(run: Run, basis: Run, clock: Clock): number {
  const costs = costsOf({ ...basis, numbers: run.numbers }, clock);
  const compute = computeOf(workOf(run), run.workers, { ...costs, select: costs.select * run.roots });
  return Object.values(compute).reduce((sum, each) => sum + each, 0);
}

/** Seconds of a stage on paper: compute and collectives. */
function predict(run: Run, basis: Run, links: Readonly<Record<Collective, Link>>): number {
  const collectives = Object.values(collectivesOf(workOf(run), run.workers)).flat();
  return predictCompute(run, basis, "compute") + secondsOf(collectives, run.workers, links);
}

function linksOf(times: readonly CollectiveTime[], size: number): Record<Collective, Link> {
  const of = (name: Collective): Link =>
    fitLink(
      times
        .filter((time) => time.name === name)
        .map(({ bytes, seconds }) => ({ seconds, ...trafficOf(name, size, bytes) })),
    );
  return { broadcast: of("broadcast"), allGather: of("allGather"), allReduce_: of("allReduce_") };
}

const collectives = new Map<number, CollectiveTime[]>();
for (const size of sizes) {
  const sizes = [1024, 2 ** 14, 2 ** 17, 2 ** 20, 2 ** 23, 25 * 2 ** 20];
  collectives.set(size, await timeCollectives(size, { sizes, milliseconds: 500 }));
}
for (let round = 0; round < Number(values.rounds); round++) for (const run of runs) await measure(run);

const seconds = (value: number): string => value.toFixed(3);
const percent = (value: number): string => `${(100 * value).toFixed(1)}%`;
const megabytes = (bytes: number): string => (bytes / 1e6).toPrecision(3);

console.log(
  `${cpus()[0]?.model}, ${cpus().length} cores, libtorch ${torchVersion()}, ${values.rounds} rounds of ${values.stages} stages\n`,
);
console.log(
  table(
    [
      "weights",
      "run",
      "workers",
      "roots",
      "stage, s",
      "noise",
      "sample",
      "score",
      "train",
      "select, record",
      "waiting",
      "collectives",
      "efficiency",
    ],
    runs.map((run) => {
      const parts = medianParts(run.rounds.flat());
      return [
        run.weights,
        run.kind,
        run.workers,
        run.roots,
        seconds(stageOf(run)),
        percent(noiseOf(run)),
        ...(["sample", "score", "train"] as const).map((phase) => seconds(parts[phase].compute)),
        seconds(parts.select.compute + parts.record.compute),
        ...(["waiting", "collectives"] as const).map((part) => seconds(totalOf(parts, [part]))),
        percent(efficiencyOf(run)),
      ];
    }),
  ),
);
for (const run of runs.filter(({ kind }) => kind === "strong")) {
  const parts = medianParts(run.rounds.flat());
  console.log(
    `\nCollectives of a stage: ${run.weights}, ${run.kind}, ${run.workers} workers, ${run.numbers.parameters} parameters\n`,
  );
  const byPhase = Object.entries(collectivesOf(workOf(run), run.workers));
  console.log(
    table(
      ["phase", "measured, ms", "predicted, ms", "predicted, MB", "measured calls, MB"],
      byPhase.map(([phase, planned]) => [
        phase,
        (1000 * parts[phase as keyof StageParts].collectives).toFixed(1),
        (1000 * secondsOf(planned, run.workers, linksOf(collectives.get(run.workers)!, run.workers))).toFixed(1),
        megabytes(planned.reduce((sum, { count, bytes }) => sum + count * bytes, 0)),
        run.sent
          .filter((sent) => sent.phase === phase)
          .map(({ name, calls, bytes }) => `${calls} ${name} ${megabytes(bytes)}`)
          .join(", "),
      ]),
    ),
  );
}
for (const [size, times] of collectives) {
  const links = linksOf(times, size);
  const bytes = [...new Set(times.map((time) => time.bytes))];
  console.log(`\nCollectives alone, ${size} workers, milliseconds\n`);
  console.log(
    table(
      ["collective", ...bytes.map((each) => `${each / 1024} KiB`), "alpha, ms", "1 / beta, GB/s"],
      Object.entries(links).map(([name, { alpha, beta }]) => [
        name,
        ...times.filter((time) => time.name === name).map((time) => (1000 * time.seconds).toFixed(2)),
        (1000 * alpha).toFixed(2),
        (1e-9 / beta).toFixed(2),
      ]),
    ),
  );
}
const predictions = runs
  .filter(({ kind }) => kind === "strong" || kind === "weak")
  .map((run) => {
    const links = linksOf(collectives.get(run.workers)!, run.workers);
    const [alone, beside] = [runOf("alone", run.weights), runOf("beside", run.weights, run.workers)];
    const measured = stageOf(run);
    const [fromAlone, fromBusy] = [predict(run, alone, links), predict(run, beside, links)];
    const processor = totalOf(medianParts(run.rounds.flat()), ["processor"]);
    const processorOnPaper = predictCompute(run, alone, "processor");
    const { weights, kind, workers } = run;
    return { weights, kind, workers, measured, fromAlone, fromBusy, processor, processorOnPaper };
  });
console.log("\nSeconds of a stage, predicted from one worker's with the other cores idle, and busy\n");
console.log(
  table(
    ["weights", "run", "workers", "measured", "predicted, idle", "error", "predicted, busy", "error"],
    predictions.map(({ weights, kind, workers, measured, fromAlone, fromBusy }) => [
      weights,
      kind,
      workers,
      seconds(measured),
      seconds(fromAlone),
      percent(fromAlone / measured - 1),
      seconds(fromBusy),
      percent(fromBusy / measured - 1),
    ]),
  ),
);
console.log(
  "\nSeconds of processor time of a stage, of the worker that needs most; the model has none for collectives\n",
);
console.log(
  table(
    ["weights", "run", "workers", "measured", "predicted", "error"],
    predictions.map(({ weights, kind, workers, processor, processorOnPaper }) => [
      weights,
      kind,
      workers,
      seconds(processor),
      seconds(processorOnPaper),
      percent(processorOnPaper / processor - 1),
    ]),
  ),
);
if (values.json !== undefined) {
  const measured = runs.map((run) => ({
    ...run,
    rounds: undefined,
    stage: stageOf(run),
    noise: noiseOf(run),
    efficiency: efficiencyOf(run),
    phases: medianParts(run.rounds.flat()),
    stages: run.rounds.map((round) => round.map((stage) => totalOf(stage))),
  }));
  const all = { options: values, settings, runs: measured, collectives: [...collectives], predictions };
  writeFileSync(values.json, `${JSON.stringify(all, null, 2)}\n`);
}
