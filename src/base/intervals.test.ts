import assert from "node:assert/strict";
import { test } from "node:test";
import { bootstrapInterval, meanInterval } from "./intervals.js";
import { fillNormal } from "./philox.js";

test("few units are resampled in every way, so that intervals are exact", () => {
  // Means 0, 1/2 (twice), 1: a quarter of them lies at each end.
  assert.deepEqual(meanInterval([0, 1]), { mean: 0.5, low: 0, high: 1 });
  // 27 resamples of 0, 3, 6, by their sums: 0 once, 3 three times, ..., 18 once; 2.5% is less than one of 27.
  assert.deepEqual(meanInterval([0, 3, 6]), { mean: 3, low: 0, high: 6 });
  // 256 resamples of 1, 2, 3, 4. Sum 4: 1, sum 5: 4, sum 6: 10, which is 15 of 256; 2.5% of them are 6.4.
  assert.deepEqual(meanInterval([1, 2, 3, 4]), { mean: 2.5, low: 6 / 4, high: 14 / 4 });
});

test("the interval of many units is that of the normal distribution", () => {
  const values = new Float32Array(400);
  fillNormal(values, 0, 400, { seed: 7, stream: "evaluation", stage: 0, root: 0, branch: 0, step: 0 });
  const sample = [...values];
  const mean = sample.reduce((sum, x) => sum + x, 0) / 400;
  const error = Math.sqrt(sample.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 400 / 400);
  const interval = meanInterval(sample)!;
  assert.ok(Math.abs(interval.mean - mean) < 1e-12);
  assert.ok(Math.abs(interval.low! - (mean - 1.96 * error)) < 0.1 * error);
  assert.ok(Math.abs(interval.high! - (mean + 1.96 * error)) < 0.1 * error);
  assert.deepEqual(meanInterval(sample), interval, "the same at every call");
});

test("intervals of few units hold the true mean less often than in 95% of samples, as docs/compare.md says", () => {
  const SAMPLES = 500;
  const coverage = (n: number): number => {
    const held = Array.from({ length: SAMPLES }, (_, sample) => {
      const values = new Float32Array(n);
      fillNormal(values, 0, n, { seed: 1, stream: "evaluation", stage: sample, root: n, branch: 0, step: 0 });
      const { low, high } = meanInterval([...values])!;
      return low! <= 0 && high! >= 0;
    });
    return Math.round((100 * held.filter(Boolean).length) / SAMPLES);
  };
  assert.deepEqual([2, 4, 8].map(coverage), [48, 77, 86]);
});

test("paired differences of units that agree have no width, whatever the spread between units", () => {
  const before = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6, 0.5];
  const after = before.map((x) => x + 0.05);
  const { mean, low, high } = meanInterval(after.map((x, i) => x - before[i]!))!;
  for (const value of [mean, low!, high!]) assert.ok(Math.abs(value - 0.05) < 1e-12);
});

test("weights count as repetitions do", () => {
  assert.equal(meanInterval([0, 1], [1, 3])!.mean, 0.75);
  assert.deepEqual(meanInterval([0, 1], [1, 3]), { mean: 0.75, low: 0, high: 1 });
  assert.equal(meanInterval([5, 1, 2], [0, 1, 1])!.mean, 1.5);
});

test("one unit has no interval, none has no mean; infinite statistics are bounds like others", () => {
  assert.deepEqual(meanInterval([3]), { mean: 3, low: null, high: null });
  assert.equal(meanInterval([]), null);
  // Infinite for resamples without unit 0: (2/3)^3 = 8 of 27.
  assert.deepEqual(
    bootstrapInterval(3, (units) => (units.includes(0) ? 1 : Infinity)),
    { low: 1, high: Infinity },
  );
  assert.equal(
    bootstrapInterval(3, () => NaN),
    null,
  );
});
