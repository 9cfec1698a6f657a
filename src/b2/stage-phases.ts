/** The phases of a stage as three processes, which share a run folder: `b2 sample`, `b2 select` and `b2 train`. */
import { meanAndDeviation } from "../base/statistics.js";
import type { PhaseSeconds, StageMetrics } from "../runs/index.js";
import { loadBranches, loadTrainSet, saveBranches, type RecordShape } from "./record/storage.js";
import { disposeRecord } from "./records.js";
import { timed, type Trainer } from "./trainer.js";

/** Phase 1: samples into the run folder. @returns how many images were sampled */
export async function sampleStage(trainer: Trainer, stage: number): Promise<number> {
  const { writer } = trainer;
  trainer.restore(stage);
  writer.beginStage(stage);
  const [branches, sample] = await timed(() => trainer.sample(stage));
  try {
    saveBranches(writer, branches);
    writer.writePartial(stage, { ...NO_SECONDS, sample });
    return branches.keys.length;
  } finally {
    disposeRecord(branches);
  }
}

/** Phases 2 and 3: reads samples from the run folder and writes the selection. @throws InputError if there are none */
export async function selectStage(
  trainer: Trainer,
  stage: number,
): Promise<{ samples: number; selected: number; rewardMean: number }> {
  const { writer, run } = trainer;
  const branches = loadBranches(run, stage, shapeOf(trainer));
  try {
    const seconds = { ...NO_SECONDS, ...run.partial(stage) };
    writer.beginStage(stage, "images");
    const [scored, score] = await timed(() => trainer.score(branches));
    const trainSet = trainer.select(scored, { keep: true });
    disposeRecord(trainSet);
    writer.writePartial(stage, { ...seconds, score, rewards: scored.rewardSeconds });
    const { mean: rewardMean } = meanAndDeviation(scored.rewards);
    return { samples: scored.keys.length, selected: trainSet.keys.length, rewardMean };
  } finally {
    disposeRecord(branches);
  }
}

/**
 * Phases 4 and 5: trains on the selection in the run folder and finishes the stage.
 *
 * @throws InputError if there is none
 */
export async function trainStage(trainer: Trainer, stage: number): Promise<StageMetrics> {
  const { writer, run } = trainer;
  const trainSet = loadTrainSet(run, stage, shapeOf(trainer));
  try {
    trainer.restore(stage);
    const seconds = { ...NO_SECONDS, ...run.partial(stage) };
    const samples = run.samples(stage);
    const rewards = samples.map(({ reward }) => reward);
    const parts = Object.fromEntries(
      trainer.rewards.labels.map((label) => [label, samples.map((line) => line.rewards?.[label] ?? line.reward)]),
    );
    writer.beginStage(stage, "updates");
    const [updates, train] = await timed(() => trainer.update(trainSet));
    return trainer.record({ scored: { stage, rewards, parts }, trainSet, updates, seconds: { ...seconds, train } });
  } finally {
    disposeRecord(trainSet);
  }
}

const NO_SECONDS: PhaseSeconds = { sample: 0, score: 0, train: 0, rewards: {} };

const shapeOf = ({ objective, policy }: Trainer): RecordShape => {
  return { learnsFrom: objective.learnsFrom, latentShape: policy.latentShape };
};
