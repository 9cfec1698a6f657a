// Normalisation, selection and schedule against worked cases of the reference (test/fixtures/selection.json, and every
// selection.json named in GOLDEN).
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { test } from "node:test";
import { fixtures } from "../../../test/support/folders.js";
import { advantages, advantagesByLevel, combinedAdvantages, type PromptRewards } from "./advantage.js";
import { trainedSteps } from "./schedule.js";
import { selectSamples } from "./select.js";

interface Cases {
  branches: number;
  history_rounds: number;
  positive_threshold: number;
  negative_threshold: number;
  rounds: { prompts: string[]; rewards: number[][]; advantages: number[][]; selected: [number, number][] }[];
  schedule: { first: number; last: number; stages: number; split_step: number[] };
}

const files = [
  join(fixtures, "selection.json"),
  ...(process.env["GOLDEN"] ?? "")
    .split(":")
    .filter((path) => path !== "" && existsSync(path))
    .map((path) => (statSync(path).isDirectory() ? join(path, "selection.json") : path))
    .filter((path) => basename(path).startsWith("selection") && path.endsWith(".json") && existsSync(path)),
];

for (const file of files) {
  const cases = JSON.parse(readFileSync(file, "utf8")) as Cases;
  const branchCount = cases.branches;

  test(`advantages and selection as in ${file}`, () => {
    const history: PromptRewards[] = [];
    for (const round of cases.rounds) {
      const current = {
        prompts: round.prompts.flatMap((prompt) => Array<string>(branchCount).fill(prompt)),
        rewards: round.rewards.flat(),
      };
      const z = advantages(current, history.slice(-cases.history_rounds), { mode: "prompt-history", branchCount });
      round.advantages.flat().forEach((expected, i) => assert.ok(Math.abs(z[i]! - expected) < 1e-9));
      const selected = selectSamples(z, {
        mode: "best-worst",
        branchCount,
        positiveThreshold: cases.positive_threshold,
        negativeThreshold: cases.negative_threshold,
      });
      assert.deepEqual(
        selected.map((i) => [Math.floor(i / branchCount), i % branchCount]),
        round.selected,
      );
      history.push(current);
    }
  });

  test(`schedule as in ${file}`, () => {
    const { split_step, ...schedule } = cases.schedule;
    assert.deepEqual(
      split_step.map((_, stage) => trainedSteps(stage, schedule)),
      split_step,
    );
    assert.equal(trainedSteps(schedule.stages, schedule), schedule.last);
    assert.throws(() => trainedSteps(-1, schedule), /Expected a stage from 0/);
  });
}

const options = { mode: "best-worst", branchCount: 3, positiveThreshold: 0.5, negativeThreshold: -0.5 } as const;

test("a single sample of a prompt has advantage 0, not NaN", () => {
  const alone = { prompts: ["a"], rewards: [0.3] };
  assert.deepEqual(advantages(alone, [], { mode: "prompt-history", branchCount: 1 }), [0]);
});

test("only a prompt's latest rewards count, and one with few is compared with the whole stage", () => {
  const history = [{ prompts: ["a", "a", "b"], rewards: [100, 1, 7] }];
  const current = { prompts: ["a", "a", "b"], rewards: [2, 3, 10] };
  const z = advantages(current, history, { mode: "prompt-history", branchCount: 1, historyImages: 3, minImages: 3 });
  // a: 1, 2 and 3 have mean 2 and deviation 1; b has two rewards, and 2, 3 and 10 have mean 5 and deviation sqrt(19).
  [0, 1, 5 / Math.sqrt(19)].forEach((expected, i) => assert.ok(Math.abs(z[i]! - expected) < 1e-6, `${i}: ${z[i]}`));
});

test("equal rewards select nothing", () => {
  const current = { prompts: ["a", "a", "a"], rewards: [1, 1, 1] };
  const z = advantages(current, [], { mode: "prompt-history", branchCount: 3 });
  assert.deepEqual(selectSamples(z, options), []);
});

test("branch-centred advantages of a root sum to 0, and part siblings that are both above the prompt's mean", () => {
  const current = { prompts: Array<string>(6).fill("a"), rewards: [3, 4, 5, 0, 0, 0] };
  const history = advantages(current, [], { mode: "prompt-history", branchCount: 3 });
  assert.ok(history.slice(0, 3).every((z) => z > 0));
  const centred = advantages(current, [], { mode: "branch-centred", branchCount: 3 });
  assert.ok(Math.abs(centred[0]! + centred[1]! + centred[2]!) < 1e-9);
  assert.deepEqual(centred.slice(3), [0, 0, 0]);
  assert.deepEqual(selectSamples(centred, { ...options, positiveThreshold: 0.3, negativeThreshold: -0.3 }), [2, 0]);
});

test("group-relative advantages are z-scores among a prompt's images of this stage, whatever their root", () => {
  // "a": 1, 2, 3, 6 with mean 3 and variance (4 + 1 + 0 + 9) / 3; "b": twice the same.
  const current = { prompts: ["a", "a", "b", "b", "a", "a"], rewards: [1, 2, 7, 7, 3, 6] };
  const history = [{ prompts: ["a", "b"], rewards: [100, -100] }];
  const z = advantages(current, history, { mode: "group-relative", branchCount: 2 });
  const deviation = Math.sqrt(14 / 3);
  [-2 / deviation, -1 / deviation, 0, 0, 0, 3 / deviation].forEach((expected, i) => {
    assert.ok(Math.abs(z[i]! - expected) < 1e-6, `${z[i]} for ${expected}`);
  });
  assert.notDeepEqual(advantages(current, history, { mode: "prompt-history", branchCount: 2 }), z);
});

test("mode all selects every sample", () => {
  assert.deepEqual(selectSamples([0, 1, -1, 0], { ...options, mode: "all", branchCount: 1 }), [0, 1, 2, 3]);
});

test("rewards that are normalised before their sum do not drown each other by their scales", () => {
  const prompts = ["a", "a", "a", "a", "b", "b", "b", "b"];
  const small = [0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1];
  const large = [900, 100, 100, 900, 100, 900, 900, 100];
  const levels = [{ count: 4, images: 1 }];
  const of = (rewards: readonly number[]) =>
    advantagesByLevel({ prompts, rewards }, [], levels, { mode: "prompt-history" });
  const both = (weights: readonly [number, number], scale = 1): readonly number[] =>
    combinedAdvantages([
      { weight: weights[0], levels: of(small) },
      { weight: weights[1], levels: of(large.map((reward) => reward * scale)) },
    ])[0]!;
  const [z, w] = [of(small)[0]!, of(large)[0]!];
  both([1, 1]).forEach((a, i) => assert.ok(Math.abs(a - (z[i]! + w[i]!) / Math.SQRT2) < 1e-12));
  both([3, -4]).forEach((a, i) => assert.ok(Math.abs(a - (0.6 * z[i]! - 0.8 * w[i]!)) < 1e-12));
  both([1, 1], 1e6).forEach((a, i) => assert.ok(Math.abs(a - both([1, 1])[i]!) < 1e-9));
  assert.deepEqual(combinedAdvantages([{ weight: 2, levels: of(small) }]), of(small), "of one reward its own");
});
