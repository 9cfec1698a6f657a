import assert from "node:assert/strict";
import { test } from "node:test";
import { compare, estimate, meanOf, measureOf, slotOf, type EvaluationRow } from "./measures.js";
import { parseEvaluation } from "./parse-evaluation.js";

/** A row of prompts that were measured among right images: the diversity and the pairs of each. */
function row(...prompts: readonly [diversity: number | null, pairs: number][]): EvaluationRow {
  const perPrompt = prompts.map(([diversityAmongRight, rightPairs], i) => {
    return { prompt: `prompt ${i}`, reward: i, diversityAmongRight, rightPairs };
  });
  const { rows } = parseEvaluation({ rows: [{ prompts: "training", images: 8, perPrompt }] });
  return rows[0]!;
}

const among = measureOf("diversityAmongRight");

test("prompts count alike, and the interval is that of resampled prompts", () => {
  assert.deepEqual(estimate([1, null, 3]), { mean: 2, low: 1, high: 3 });
  assert.deepEqual(estimate([5]), { mean: 5, low: null, high: null });
  assert.equal(estimate([null]), null);
});

test("among right images it is pairs that count alike", () => {
  const { perPrompt } = row([0.2, 1], [0.4, 3], [null, 0]);
  const { mean, low, high } = meanOf(perPrompt, among)!;
  assert.ok(Math.abs(mean - (0.2 + 3 * 0.4) / 4) < 1e-12);
  // Two prompts have pairs: a quarter of the resamples has the first alone, a quarter the second.
  assert.ok(Math.abs(low! - 0.2) < 1e-12 && Math.abs(high! - 0.4) < 1e-12);
});

test("a change is weighted by the pairs of both sides, and leaves out prompts that have none on one", () => {
  const [before, after] = [row([0.2, 1], [0.4, 3], [0.9, 6]), row([0.3, 3], [0.4, 1], [null, 0])];
  const { mean, low, high } = compare(before, after, among)!;
  assert.ok(Math.abs(mean - 0.05) < 1e-12);
  assert.ok(Math.abs(low!) < 1e-12 && Math.abs(high! - 0.1) < 1e-12);
  assert.equal(compare(before, row([0.2, 1]), among), null, "other prompts");
});

test("an evaluation of 0.2.0 has none of the later measures, and intervals from its prompts", () => {
  const old = (prompt: string, reward: number): object => ({ prompt, reward, trueAlignment: 0.5, diversity: 0.1 });
  const estimateOf = (mean: number) => ({ mean, error: 0 });
  const { rows } = parseEvaluation({
    rows: [
      {
        prompts: "training",
        images: 2,
        reward: estimateOf(1.5),
        trueAlignment: estimateOf(0.5),
        perPrompt: [old("a", 1), old("b", 2)],
      },
    ],
  });
  const [first] = rows;
  assert.deepEqual([first!.diversityAmongRight, first!.rightPairs, first!.slots], [null, null, {}]);
  assert.deepEqual(first!.reward, { mean: 1.5, low: 1, high: 2 });
  assert.equal(compare(first!, first!, slotOf("animal")), null);
  assert.deepEqual(compare(first!, first!, measureOf("trueAlignment")), { mean: 0, low: 0, high: 0 });
});
