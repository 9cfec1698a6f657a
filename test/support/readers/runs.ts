/** Readers of run folders and of comparisons. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Annotations } from "../../../src/annotate/annotations.js";
import { resolveConfig, sampleStage, selectStage, Trainer } from "../../../src/b2/index.js";
import { loadBranches, loadTrainSet } from "../../../src/b2/record/storage.js";
import { configOfFolder, goOn } from "../../../src/b2/run-plan.js";
import { holderOfLock } from "../../../src/base/lock.js";
import { writeReport } from "../../../src/compare/write-report.js";
import { readEvaluation, warningsOf } from "../../../src/eval/results.js";
import { checkRun } from "../../../src/eval/run-check.js";
import { compareRuns, describeRun, listRuns } from "../../../src/eval/run-summary.js";
import { layout, RunReader, RunWriter, type StageMetrics } from "../../../src/runs/index.js";
import { tidy } from "../../../src/torch/index.js";
import { mutateJson, mutateJsonLines, mutateSafetensors, mutateText, type Mutate } from "../mutate.js";
import { tinyConfig } from "../tiny.js";
import { put, type ReaderUnderTest } from "./reader.js";

const cost = { queries: 144, forwardPasses: 10, backwardPasses: 5, seconds: 2, processorSeconds: 2 };

const evaluation = (reward: number): object => {
  const perPrompt = [{ prompt: "a cat", reward, trueAlignment: 0.75, slots: { animal: 1 }, rewards: { a: 1, b: 2 } }];
  const estimate = { mean: reward, low: 0, high: 1 };
  return { rows: [{ prompts: "training", images: 2, reward: estimate, trueAlignment: estimate, perPrompt }] };
};

/** A run's folder after two stages, as if it had been computed. */
function made(folder: string): RunReader {
  const config = resolveConfig(tinyConfig({ rewards: ["brightness"] }));
  const madeBy = {
    fromStage: 0,
    at: "2026-01-01",
    b2: "0.3.0",
    libtorch: "2.0",
    processor: "x",
    threads: 2,
    device: "cpu",
  };
  const writer = RunWriter.create(folder, { config, reward: "config", madeBy });
  for (const stage of [0, 1]) {
    writer.beginStage(stage);
    const sample = { root: 0, branch: 0, prompt: "a cat", reward: 0.5, advantage: 1, selected: true };
    writer.writeSamples(stage, [sample, { ...sample, branch: 1, image: "images/a.png" }]);
    put(folder, `stages/000${stage}/updates.jsonl`, '{"update":0,"pairs":3,"loss":0.5}\n');
    writer.writePartial(stage, { sample: 1, score: 1, train: 1, rewards: { brightness: 1 }, costs: { sample: cost } });
    writer.writeScores(stage, { parts: { brightness: [1, 2] }, rewardSeconds: { brightness: 1 } });
    const numbers = {
      stage,
      trainedSteps: 3,
      images: 6,
      rewardMean: 0.25 * stage,
      rewardStd: 1,
      selected: 3,
      updates: 2,
    };
    const metrics = { ...numbers, rewards: {}, objective: {}, cost } as unknown as StageMetrics;
    writer.finishStage(stage, metrics, { trajectories: 2, optimizers: 2 });
    put(folder, `stages/000${stage}/pytorch_lora_weights.safetensors`, "");
  }
  for (const name of ["before", "after"]) writer.writeEvaluation(name, evaluation(0.5));
  put(folder, "intervals/0001.json", {
    stage: 1,
    first: 1,
    last: 3,
    shares: [{ steps: 1, share: 0.1, low: 0, high: null }],
    cost,
  });
  put(folder, "warnings.jsonl", '{"kind":"reward-flat","text":"x","stages":[1]}\n');
  put(folder, "run.lock", "1 somewhere pid:[1] 0");
  return writer.reader;
}

/** Reads all there is. */
function readAll(folder: string): void {
  const run = new RunReader(folder);
  for (const stage of run.finishedStages()) {
    assert.equal(typeof run.stageMetrics(stage).rewardMean, "number");
    for (const { prompt, reward } of run.samples(stage))
      assert(typeof prompt === "string" && typeof reward === "number");
    run.updates(stage);
    run.partial(stage);
    run.scores(stage);
    run.interval(stage);
  }
  for (const name of run.evaluationNames()) readEvaluation(run, name);
  const config = configOfFolder(run);
  goOn(config, config);
  warningsOf(run, config);
  holderOfLock(layout.lock(folder));
}

const mutations = (folder: string): Record<string, Mutate> =>
  Object.fromEntries(
    (readdirSync(folder, { recursive: true }) as string[])
      .filter((name) => /\.(json|jsonl|lock)$/.test(name))
      .map((name) => [
        name,
        name.endsWith(".json") ? mutateJson : name.endsWith(".jsonl") ? mutateJsonLines : mutateText,
      ]),
  );

const folders: ReaderUnderTest = {
  name: "run folders",
  share: 1200,
  prepare: (folder) => {
    made(folder);
    return { files: mutations(folder), names: [folder], read: () => readAll(folder) };
  },
};

/** What `b2 runs` says, which takes folders as they come: damage is a line in what it says. */
const summaries: ReaderUnderTest = {
  name: "summaries of runs",
  share: 60,
  prepare: (folder) => {
    made(join(folder, "a"));
    cpSync(join(folder, "a"), join(folder, "b"), { recursive: true });
    return {
      files: Object.fromEntries(Object.entries(mutations(join(folder, "a"))).map(([name, of]) => [`a/${name}`, of])),
      names: [folder],
      read: () => {
        assert.equal(listRuns(folder).length, 2);
        describeRun(join(folder, "a"));
        compareRuns(join(folder, "a"), join(folder, "b"));
        checkRun(join(folder, "a"));
      },
    };
  },
};

const resumed: ReaderUnderTest = {
  name: "stages to go on from",
  share: 60,
  prepare: async (folder) => {
    const config = tinyConfig({ rewards: ["brightness"] });
    const trainer = await Trainer.open(folder, config);
    await trainer.runStage(0);
    await sampleStage(trainer, 1);
    await selectStage(trainer, 1);
    const run = new RunReader(folder);
    const { latentShape } = trainer.policy;
    const shape = { learnsFrom: "transitions", latentShape, isTree: false } as const;
    trainer.writer.close();
    const files = {
      "stages/0000/optimizer.safetensors": mutateSafetensors,
      "stages/0000/pytorch_lora_weights.safetensors": mutateSafetensors,
      "stages/0001/sampled.safetensors": mutateSafetensors,
      "stages/0001/sampled.json": mutateJson,
      "stages/0001/selected.safetensors": mutateSafetensors,
      "stages/0001/samples.jsonl": mutateJsonLines,
    };
    for (const name of Object.keys(files)) assert(existsSync(join(folder, name)), name);
    return {
      files,
      names: [folder],
      read: () =>
        tidy(() => {
          trainer.restore(1);
          const branches = loadBranches(run, 1, shape);
          assert.equal(branches.latents.size(0), branches.keys.length);
          const trainSet = loadTrainSet(run, 1, shape);
          assert.equal(trainSet.latents.size(0), trainSet.advantages.length);
        }),
    };
  },
};

const comparisons: ReaderUnderTest = {
  name: "comparisons",
  share: 60,
  prepare: (folder) => {
    for (const setting of ["b2", "ddpo"]) made(join(folder, "runs", setting, "seed-1"));
    put(folder, "compare.json", { settings: { b2: "demo", ddpo: "demo" }, seeds: [1] });
    const run = join(folder, "runs", "ddpo", "seed-1");
    const changed = Object.entries(mutations(run)).map(([name, of]) => [`runs/ddpo/seed-1/${name}`, of] as const);
    return {
      files: { "compare.json": mutateJson, ...Object.fromEntries(changed) },
      names: null,
      read: () => writeReport(folder),
    };
  },
};

const annotations: ReaderUnderTest = {
  name: "annotations",
  share: 400,
  prepare: (folder) => {
    const made = new Annotations(folder);
    const [a, b] = ["a".repeat(64), "b".repeat(64)];
    const at = "2026-01-01T00:00:00.000Z";
    const group = { group: "stage-0000/root-0001", images: [a, b] };
    const choice = { best: a, worst: b, equal: false, ratings: { [a]: 4 } };
    made.queue.append({ ...group, prompt: "a cat 猫", scale: "best-worst", at });
    for (const isUndo of [false, true]) made.judgements.append({ ...group, choice, at, isUndo });
    return {
      files: { "queue.jsonl": mutateJsonLines, "judgements.jsonl": mutateJsonLines },
      read: () => {
        const read = new Annotations(folder);
        for (const one of read.groups().values()) {
          const { best, worst } = read.choiceIn(one);
          for (const image of [...one.images, best, worst]) assert(image === null || /^[0-9a-f]{64}$/.test(image));
        }
      },
    };
  },
};

export const runReaders: readonly ReaderUnderTest[] = [folders, summaries, resumed, comparisons, annotations];
