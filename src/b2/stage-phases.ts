/** The phases of a stage as three processes, which share a run folder: `b2 sample`, `b2 select` and `b2 train`. */
import { InputError } from "../base/errors.js";
import { meanAndDeviation } from "../base/statistics.js";
import { costBetween, type RunReader, type StageMetrics } from "../runs/index.js";
import { expectBranches, expectTrainSet, loadBranches, loadTrainSet, saveBranches } from "./record/storage.js";
import { disposeRecord } from "./records.js";
import { expectState } from "./run-plan.js";
import { NOTHING_YET, sumOfCosts, timed } from "./stage-costs.js";
import type { Trainer } from "./trainer.js";

/** The phases, by the names of their commands. */
export type Phase = "sample" | "select" | "train";

/**
 * Checks that a phase of a stage finds what it works on, before any model is loaded.
 *
 * @param run undefined while the folder has none
 * @throws InputError when an earlier phase or stage has to come first, or a later stage is finished
 */
export function expectPhase(phase: Phase, stage: number, folder: string, run: RunReader | undefined): void {
  if (run === undefined) {
    if (phase === "sample" && stage === 0) return;
    throw new InputError(`Expected a run in ${folder} for stage ${stage} but received none; run b2 sample first`);
  }
  if (phase === "select") expectBranches(run, stage);
  else if (phase === "train") expectTrainSet(run, stage);
  run.expectNoneAfter(stage);
  if (phase !== "select") expectState(run, stage - 1);
}

/** Phase 1: samples into the run folder. @returns how many images were sampled */
export async function sampleStage(trainer: Trainer, stage: number): Promise<number> {
  const { writer } = trainer;
  trainer.restore(stage);
  writer.beginStage(stage);
  const start = trainer.spent();
  const [branches, sample] = await timed(() => trainer.sample(stage));
  try {
    const cost = costBetween(start, trainer.spent());
    saveBranches(writer, branches);
    writer.writePartial(stage, { ...NOTHING_YET, sample, costs: { sample: cost } });
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
  const branches = loadBranches(run, stage, trainer.recordShape);
  try {
    const partial = { ...NOTHING_YET, ...run.partial(stage) };
    writer.beginStage(stage, run.has(stage, "scores") ? "samples" : "images");
    writer.writePartial(stage, partial);
    // A failed attempt is a part of this one; a finished one is replaced.
    const before = run.has(stage, "scores") ? partial : NOTHING_YET;
    const start = trainer.spent();
    const [scored, seconds] = await timed(() => trainer.scoreOrKeep(branches, { ...partial, score: before.score }));
    const trainSet = trainer.select(scored, { keep: true });
    disposeRecord(trainSet);
    const score = before.score + seconds;
    const costs = { ...partial.costs, score: sumOfCosts(before.costs.score, costBetween(start, trainer.spent())) };
    writer.writePartial(stage, { ...partial, score, rewards: scored.rewardSeconds, costs });
    writer.remove(stage, "scores");
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
  const trainSet = loadTrainSet(run, stage, trainer.recordShape);
  try {
    trainer.restore(stage);
    const { costs, ...seconds } = { ...NOTHING_YET, ...run.partial(stage) };
    const samples = run.samples(stage);
    const rewards = samples.map(({ reward }) => reward);
    const parts = Object.fromEntries(
      trainer.rewards.labels.map((label) => [label, samples.map((line) => line.rewards?.[label] ?? line.reward)]),
    );
    writer.beginStage(stage, "updates");
    const start = trainer.spent();
    const [updates, train] = await timed(() => trainer.update(trainSet));
    const spent = costBetween(start, trainer.spent());
    return trainer.record({
      scored: { stage, keys: samples, rewards, parts },
      trainSet,
      updates,
      seconds: { ...seconds, train },
      cost: sumOfCosts(costs.sample, costs.score, spent),
    });
  } finally {
    disposeRecord(trainSet);
  }
}
