import assert from "node:assert/strict";
import { test } from "node:test";
import type { StageMetrics } from "../runs/index.js";
import type { EvaluationRow } from "./measures.js";
import { parseEvaluation } from "./parse-evaluation.js";
import { evaluationWarnings, runWarnings, stageWarnings, summarise, type EvaluationAt } from "./warnings.js";

/** A stage in which nothing is wrong, but for what is given. */
function stage(number: number, changed: Partial<StageMetrics> = {}): StageMetrics {
  const healthy = {
    halvedBatches: {},
    images: 40,
    selected: 12,
    promptGroups: 8,
    flatGroups: 1,
    objective: { kl: 1e-5 },
  };
  const ratios = { firstRatioMin: 0.99999, firstRatioMax: 1.00001, ratioMin: 0.98, ratioMax: 1.01 };
  return { stage: number, ...healthy, ...ratios, ...changed } as unknown as StageMetrics;
}

const kinds = (metrics: StageMetrics, earlier: readonly StageMetrics[] = []): string[] =>
  stageWarnings(metrics, earlier).map(({ kind }) => kind);

test("a healthy stage is not warned of, nor one without ratios, KL and groups", () => {
  assert.deepEqual(kinds(stage(0)), []);
  const ratios = { firstRatioMin: null, firstRatioMax: null, ratioMin: null, ratioMax: null };
  assert.deepEqual(kinds(stage(0, { ...ratios, objective: {}, promptGroups: null, flatGroups: null })), []);
});

test("each sign has its warning", () => {
  assert.deepEqual(kinds(stage(0, { firstRatioMin: 0.945 })), ["first-ratio"]);
  assert.deepEqual(kinds(stage(0, { ratioMin: 0.7 })), ["ratio"]);
  assert.deepEqual(kinds(stage(0, { ratioMax: 1.3 })), ["ratio"]);
  assert.deepEqual(kinds(stage(0, { objective: { baseKl: 0.2 } })), ["kl"]);
  assert.deepEqual(kinds(stage(0, { flatGroups: 5 })), ["flat-groups"]);
  assert.deepEqual(kinds(stage(0, { flatGroups: 4 })), [], "half of the prompts");
  assert.deepEqual(kinds(stage(0, { selected: 0 })), ["nothing-selected"]);
});

test("a KL that jumps is warned of below its limit, one that grows is not", () => {
  const earlier = [1, 2, 3, 4, 5].map((n) => stage(n, { objective: { kl: n * 1e-4 } }));
  assert.deepEqual(kinds(stage(6, { objective: { kl: 0.004 } }), earlier), ["kl"]);
  assert.deepEqual(kinds(stage(6, { objective: { kl: 0.002 } }), earlier), []);
  assert.deepEqual(
    kinds(stage(6, { objective: { kl: 0.004 } }), earlier.slice(1)),
    [],
    "too few stages to compare with",
  );
});

/** An evaluation after a number of stages: reward and true alignment of training and held-out prompts. */
function evaluation(at: number, lists: Record<"training" | "held-out", readonly [number, number]>): EvaluationAt {
  const rows = Object.entries(lists).map(([prompts, [reward, trueAlignment]]) => ({
    prompts: prompts as EvaluationRow["prompts"],
    images: 16,
    // The prompts' changes differ by 0.01.
    perPrompt: [0, 1, 2, 3].map((i) => {
      const wobble = (at * (i % 2)) / 100;
      return { prompt: `${i}`, reward: reward + wobble, trueAlignment: trueAlignment + wobble };
    }),
  }));
  return { stage: at, evaluation: parseEvaluation({ rows }) };
}

test("a reward that rises while what it stands for falls", () => {
  const before = evaluation(0, { training: [0.3, 0.5], "held-out": [0.3, 0.5] });
  const words = (training: readonly [number, number], heldOut: readonly [number, number]): string[] =>
    evaluationWarnings(before, evaluation(1, { training, "held-out": heldOut })).map(({ text }) => text);
  assert.deepEqual(words([0.4, 0.6], [0.4, 0.6]), []);
  assert.deepEqual(words([0.2, 0.4], [0.2, 0.4]), [], "all falls: no hacking");
  assert.deepEqual(words([0.4, 0.495], [0.3, 0.5]), [], "the interval holds zero");
  assert.match(
    words([0.4, 0.4], [0.3, 0.5])[0]!,
    /^the reward of training prompts rose by 0\.105 since the base model, but true alignment fell by 9\.5 points/,
  );
  assert.match(words([0.4, 0.6], [0.2, 0.5])[0]!, /rose by 0\.105 .*but fell by 0\.095 on held-out prompts/);
});

test("a run's warnings come in order, and are summed up by kind", () => {
  const good = evaluation(0, { training: [0.3, 0.5], "held-out": [0.3, 0.5] });
  const bad = evaluation(2, { training: [0.4, 0.4], "held-out": [0.3, 0.5] });
  const warnings = runWarnings([stage(0, { selected: 0 }), stage(1), stage(2, { selected: 0 })], [good, bad]);
  assert.deepEqual(
    warnings.map(({ kind, stage }) => [kind, stage]),
    [
      ["nothing-selected", 1],
      ["reward-without-alignment", 2],
      ["nothing-selected", 3],
    ],
  );
  const [nothing, hacking] = summarise(warnings);
  assert.match(nothing!, /^none of 40 images was selected.* \(after 1 to 3 stages, 2 times\)$/);
  assert.match(hacking!, /\(after 2 stages\)$/);
});

test("a trained reward that rises while a judge falls", () => {
  const at = (stage: number, rewards: Record<string, number>): EvaluationAt => {
    const perPrompt = [0, 1, 2, 3].map((i) => {
      const wobble = (stage * (i % 2)) / 1000;
      return {
        prompt: `${i}`,
        reward: rewards["hps"],
        rewards: Object.fromEntries(Object.entries(rewards).map(([label, value]) => [label, value + wobble])),
      };
    });
    return {
      stage,
      evaluation: parseEvaluation({ rows: [{ prompts: "training", images: 16, judges: ["clip"], perPrompt }] }),
    };
  };
  const before = at(0, { hps: 0.2, jpeg: -30, clip: 0.3 });
  const warnings = evaluationWarnings(before, at(8, { hps: 0.3, jpeg: -31, clip: 0.25 }));
  assert.deepEqual(
    warnings.map(({ kind }) => kind),
    ["reward-against-judge"],
  );
  assert.match(
    warnings[0]!.text,
    /^on training prompts hps rose by 0\.1\d* since the base model, but as a judge clip fell by 0\.04\d*:/,
  );
  const kinds = (rewards: Record<string, number>): string[] =>
    evaluationWarnings(before, at(8, rewards)).map(({ kind }) => kind);
  assert.deepEqual(kinds({ hps: 0.3, jpeg: -30, clip: 0.35 }), [], "both rise");
  assert.deepEqual(kinds({ hps: 0.1, jpeg: -31, clip: 0.25 }), [], "both fall");
});
