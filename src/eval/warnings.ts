/**
 * Signs that a training goes wrong, in words. Every rule is a pure function of a run's metrics and evaluations, so that a
 * resumed run finds the same again. Thresholds are named below, each with its reason.
 */
import { listOf } from "../base/show.js";
import type { StageMetrics } from "../runs/index.js";
import {
  compare,
  measureOf,
  rewardOf,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
  type Quantity,
} from "./measures.js";

/** What a warning is about. */
export type WarningKind =
  | "first-ratio"
  | "ratio"
  | "kl"
  | "flat-groups"
  | "nothing-selected"
  | "out-of-memory"
  | "not-finite-steps"
  | "not-finite-roots"
  | "reward-without-alignment"
  | "reward-against-judge"
  | "not-held-out";

/** One sign that a training goes wrong. */
export interface Warning {
  readonly kind: WarningKind;
  /** How many stages were finished when it was seen. */
  readonly stage: number;
  readonly text: string;
}

/** An evaluation of a run, and how many stages were finished then. */
export interface EvaluationAt {
  readonly stage: number;
  readonly evaluation: Evaluation;
}

/**
 * How far the first ratios of a stage may be from 1. The reference's half-precision ratios reached 0.945 without an
 * update; in float32 they differ from 1 by less than 1e-4.
 */
const FIRST_RATIO = 0.01;

/**
 * The largest ratio, and one over the smallest. Log-probs are means over latent dimensions: a ratio of 1.25 multiplies
 * the density of each of them by 1.25 within a stage. Short trainings that work stay within 0.97 to 1.01; one with a
 * learning rate of 1 reached 0.13.
 */
const RATIO = 1.25;

/**
 * The KL per latent dimension: from the sampler (r - 1 - log r is 0.03 at a ratio of 1.25), and from the base model
 * (`ppo`: of the transitions; `forward`: the mean squared difference of predictions, whose targets have variance 1, so
 * that 0.1 is a third of a standard deviation).
 */
const KL = { kl: 0.03, baseKl: 0.1 } as const;

/** How many times its median over this many earlier stages the KL may be, once it is a tenth of its limit. */
const KL_JUMP = 10;
const KL_STAGES = 5;

/** The share of a stage's prompts that may have images of equal reward only. */
const FLAT_SHARE = 0.5;

/** Over how many prompts at least a change of an evaluation counts. */
const PROMPTS = 3;

type StageRule = (metrics: StageMetrics, earlier: readonly StageMetrics[]) => string | undefined;

/** By kind, what a stage's metrics may be warned of; `earlier` are the stages before it. */
export const stageRules = {
  "first-ratio": ({ firstRatioMin, firstRatioMax }) => {
    if (firstRatioMin === null || firstRatioMax === null) return undefined;
    if (Math.max(1 - firstRatioMin, firstRatioMax - 1) <= FIRST_RATIO) return undefined;
    return `before the first update the ratio runs from ${number(firstRatioMin)} to ${number(firstRatioMax)} where it should be 1: sampling and training compute different numbers; train.oldLogProbs=recomputed makes it 1`;
  },

  ratio: ({ ratioMin, ratioMax }) => {
    if (ratioMin === null || ratioMax === null) return undefined;
    if (ratioMax <= RATIO && ratioMin >= 1 / RATIO) return undefined;
    return `the ratio runs away: ${number(ratioMin)} to ${number(ratioMax)}; lower train.learningRate or objective.clipRange, or make updates larger (train.samplesPerUpdate)`;
  },

  kl: ({ objective }, earlier) => {
    for (const [name, limit] of Object.entries(KL)) {
      const kl = objective[name] ?? null;
      if (kl === null) continue;
      const advice = "the model moves far from what it was; lower train.learningRate, or weigh the KL to the base more";
      if (kl > limit) return `objective.${name} runs away: ${number(kl)}; ${advice}`;
      const before = earlier.slice(-KL_STAGES).flatMap((metrics) => metrics.objective[name] ?? []);
      const usual = median(before);
      if (before.length === KL_STAGES && kl > limit / 10 && kl > KL_JUMP * usual) {
        return `objective.${name} jumps from ${number(usual)} to ${number(kl)}; ${advice}`;
      }
    }
    return undefined;
  },

  "flat-groups": ({ promptGroups, flatGroups }) => {
    if (promptGroups === null || flatGroups === null || flatGroups <= FLAT_SHARE * promptGroups) return undefined;
    return `${flatGroups} of ${promptGroups} prompts had images of equal reward only, which teach nothing; such prompts are solved, hopeless, or the reward cannot tell their images apart`;
  },

  "nothing-selected": ({ selected, images }) =>
    selected > 0
      ? undefined
      : `none of ${images} images was selected, so the stage taught nothing; lower select.positiveThreshold and select.negativeThreshold toward 0`,

  "out-of-memory": ({ halvedBatches }) => {
    const keys = Object.entries(halvedBatches).map(([key, size]) => `${key}=${size}`);
    return keys.length === 0
      ? undefined
      : `the device ran out of memory, and batches were halved: set ${listOf(keys, "and")}, so that no attempt is lost`;
  },

  "not-finite-steps": ({ notFiniteSteps, updates, stage }) =>
    (notFiniteSteps ?? 0) === 0
      ? undefined
      : `${notFiniteSteps} of ${updates} optimiser steps were skipped because their loss or gradient was NaN or infinite; updates.jsonl of stage ${stage} names the samples. A lower train.learningRate or model.computeDtype=float32 may help`,

  "not-finite-roots": ({ notFiniteRoots, stage }) =>
    (notFiniteRoots ?? 0) === 0
      ? undefined
      : `${notFiniteRoots} roots were left out because their latents were NaN or infinite; samples.jsonl of stage ${stage} lacks them. A lower sample.guidanceScale or model.computeDtype=float32 may help`,
} as const satisfies Partial<Record<WarningKind, StageRule>>;

/** Warnings about a finished stage. @param earlier the stages before it */
export function stageWarnings(metrics: StageMetrics, earlier: readonly StageMetrics[]): Warning[] {
  return Object.entries<StageRule>(stageRules).flatMap(([kind, rule]) => {
    const text = rule(metrics, earlier);
    return text === undefined ? [] : [{ kind: kind as WarningKind, stage: metrics.stage + 1, text }];
  });
}

/**
 * Warnings about an evaluation beside an earlier one: the reward rises, but what it stands for falls. A change counts if
 * its 95% interval excludes 0.
 */
export function evaluationWarnings(before: EvaluationAt, after: EvaluationAt): Warning[] {
  const since =
    before.stage === 0 ? "since the base model" : `since the evaluation after ${stagesInWords(before.stage)}`;
  const warnings: Warning[] = [];
  const warn = (kind: WarningKind, text: string): void => void warnings.push({ kind, stage: after.stage, text });
  const rowsOf = (list: EvaluationRow["prompts"]) =>
    [before, after].map(({ evaluation }) => evaluation.rows.find(({ prompts }) => prompts === list));
  const changeOf = (list: EvaluationRow["prompts"], quantity: Quantity): Estimate | null => {
    const [b, a] = rowsOf(list);
    return b === undefined || a === undefined || a.perPrompt.length < PROMPTS ? null : compare(b, a, quantity);
  };
  const change = (list: EvaluationRow["prompts"], measure: Measure): Estimate | null =>
    changeOf(list, measureOf(measure));
  for (const list of ["training", "held-out"] as const) {
    const { rewards = {}, judges = [] } = rowsOf(list)[1] ?? {};
    const changes = Object.keys(rewards).map((label) => ({ label, change: changeOf(list, rewardOf(label)) }));
    const risen = changes.filter(({ label, change }) => !judges.includes(label) && rises(change));
    const fallen = changes.filter(({ label, change }) => judges.includes(label) && falls(change));
    if (risen.length > 0 && fallen.length > 0) {
      const all = (some: typeof changes, verb: string, sign: number): string =>
        listOf(
          some.map(({ label, change }) => `${label} ${verb} by ${number(sign * change!.mean)}`),
          "and",
        );
      const words = `on ${list} prompts ${all(risen, "rose", 1)} ${since}, but as a judge ${all(fallen, "fell", -1)}`;
      warn("reward-against-judge", `${words}: the model learns to please the reward`);
    }
    const [reward, alignment] = [change(list, "reward"), change(list, "trueAlignment")];
    if (!rises(reward) || !falls(alignment)) continue;
    const words = `the reward of ${list} prompts rose by ${number(reward!.mean)} ${since}, but true alignment fell by ${percent(alignment!.mean)}`;
    warn("reward-without-alignment", `${words}: the model learns to please the reward`);
  }
  const [training, heldOut] = [change("training", "reward"), change("held-out", "reward")];
  if (rises(training) && falls(heldOut)) {
    const words = `the reward of training prompts rose by ${number(training!.mean)} ${since}, but fell by ${number(-heldOut!.mean)} on held-out prompts`;
    warn("not-held-out", `${words}: what is learnt does not carry over`);
  }
  return warnings;
}

/** All warnings of a run. @param evaluations in order; each is compared with the one before and with the first */
export function runWarnings(metrics: readonly StageMetrics[], evaluations: readonly EvaluationAt[]): Warning[] {
  const ofStages = metrics.flatMap((stage, i) => stageWarnings(stage, metrics.slice(0, i)));
  const ofEvaluations = evaluations.flatMap((after, i) => {
    const others = [...new Set([evaluations[0]!, evaluations[i - 1] ?? after])].filter((other) => other !== after);
    return others.flatMap((before) => evaluationWarnings(before, after));
  });
  return [...ofStages, ...ofEvaluations].sort((a, b) => a.stage - b.stage);
}

/** One line for each kind of warning: what was seen last, and after how many stages. */
export function summarise(warnings: readonly Warning[]): string[] {
  const byKind = new Map<WarningKind, Warning[]>();
  for (const warning of warnings) byKind.set(warning.kind, [...(byKind.get(warning.kind) ?? []), warning]);
  return [...byKind.values()].map((same) => {
    const last = same.at(-1)!;
    const stages = [...new Set(same.map(({ stage }) => stage))];
    const where =
      stages.length === 1
        ? `after ${stagesInWords(last.stage)}`
        : `after ${stages[0]} to ${last.stage} stages, ${stages.length} times`;
    return `${last.text} (${where})`;
  });
}

const stagesInWords = (count: number): string => (count === 1 ? "1 stage" : `${count} stages`);

const rises = (change: Estimate | null): boolean => (change?.low ?? 0) > 0;
const falls = (change: Estimate | null): boolean => (change?.high ?? 0) < 0;

const number = (value: number): string => String(Number(value.toPrecision(3)));
const percent = (share: number): string => `${(-100 * share).toFixed(1)} points`;

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}
