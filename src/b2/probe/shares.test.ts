import assert from "node:assert/strict";
import { test } from "node:test";
import type { ProbedRoot } from "./branching.js";
import { evenSplits, promptsOfRoots, proposeInterval } from "./propose.js";
import { allShares, measureShares, type ShareEstimate } from "./shares.js";

const root = (prompt: string, ...reward: number[][]): ProbedRoot => ({ prompt, values: { reward } });

test("a share is the mean variance inside roots over that of independent images, each divided by K - 1", () => {
  const roots = [root("a", [1, 3], [0, 4]), root("b", [5, 5], [2, 2])];
  const { shares, mean, roots: count } = measureShares(roots, "reward", [5, 10]);
  // Variances: 2 and 0 from the split, 8 and 0 of independent images.
  assert.deepEqual(
    shares.map(({ steps, variance, share, differing }) => [steps, variance, share, differing]),
    [
      [5, 1, 0.25, 0.5],
      [10, 4, 1, 0.5],
    ],
  );
  assert.equal(mean, 2);
  assert.equal(count, 2);
});

test("intervals hold the share, shrink with more prompts, and are the same at every call", () => {
  // Prompt i decides i % 4 thirds of its variance late.
  const roots = (prompts: number): ProbedRoot[] =>
    Array.from({ length: prompts }, (_, i) => root(`p${i}`, [0, Math.sqrt((i % 4) / 3)], [0, 1]));
  const [few] = measureShares(roots(8), "reward", [1, 2]).shares as [ShareEstimate];
  const [many, whole] = measureShares(roots(80), "reward", [1, 2]).shares as [ShareEstimate, ShareEstimate];
  assert.ok(Math.abs(many.share! - 0.5) < 1e-12);
  assert.ok(few.low! < 0.5 && few.high! > 0.5 && many.low! < 0.5 && many.high! > 0.5);
  assert.ok(many.high! - many.low! < 0.5 * (few.high! - few.low!));
  assert.deepEqual([whole.low, whole.high], [1, 1]);
  assert.deepEqual(measureShares(roots(80), "reward", [1, 2]).shares[0], many);
});

test("a measure counts the roots that have it; one that does not vary has no shares", () => {
  const roots: ProbedRoot[] = [
    { prompt: "a", values: { reward: [[1, 1], [1, 1]], "slots.colour": [[0, 1], [0, 1]] } }, // prettier-ignore
    { prompt: "b", values: { reward: [[1, 1], [1, 1]] } }, // prettier-ignore
  ];
  const { reward, "slots.colour": colour } = allShares(roots, [1, 2]);
  assert.deepEqual([reward!.roots, colour!.roots], [2, 1]);
  assert.equal(colour!.shares[0]!.share, 1);
  for (const { share, low, high } of reward!.shares) assert.deepEqual([share, low, high], [null, null, null]);
  assert.deepEqual(proposeInterval(reward!.shares), { first: 2, last: 2 });
});

test("the proposal begins where the lower end reaches a quarter, and ends where 95% are decided", () => {
  const at = (steps: number, share: number, low: number): ShareEstimate => {
    return { steps, share, low, high: 1, variance: share, differing: 1 };
  };
  const shares = [at(4, 0.3, 0.1), at(8, 0.5, 0.26), at(12, 0.96, 0.9), at(16, 0.94, 0.9), at(20, 1, 1)];
  assert.deepEqual(proposeInterval(shares), { first: 8, last: 12 });
  assert.deepEqual(proposeInterval(shares.toSpliced(2, 1)), { first: 8, last: 20 });
  assert.deepEqual(proposeInterval([at(4, 0.96, 0.2), at(8, 0.9, 0.5), at(10, 1, 1)]), { first: 8, last: 10 });
});

test("splits and prompts are spread evenly", () => {
  assert.deepEqual(evenSplits(20), [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
  assert.deepEqual(evenSplits(4), [1, 2, 3, 4]);
  assert.deepEqual(evenSplits(50, 5), [10, 20, 30, 40, 50]);
  assert.deepEqual(promptsOfRoots(["a", "b", "c", "d"], 2), ["a", "c"]);
  assert.deepEqual(promptsOfRoots(["a", "b"], 5), ["a", "b", "a", "b", "a"]);
});
