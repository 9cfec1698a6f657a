// Settings at equal costs, against numbers worked out by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { atEqualCost, atTarget, costToTarget, finalValue, meanCurve, valueAt } from "./analysis.js";
import type { RunCurves } from "./curves.js";

const key = "training/reward";

/** A run whose measure is given by pairs of queries and value. */
const run = (seed: number, ...points: [queries: number, value: number][]): RunCurves => ({
  setting: "any",
  seed,
  stages: 1,
  planned: 1,
  points: points.map(([queries, value], stage) => ({
    stage,
    cost: { queries, passes: 10 * queries, seconds: 0, processorSeconds: 0 },
    measures: { [key]: value },
  })),
});

const baseline = [run(1, [0, 0], [100, 0.2], [200, 0.4]), run(2, [0, 0.1], [100, 0.3], [200, 0.5])];
// Twice as fast, but only half as long; seed 2 is by 0.1 above seed 1.
const fast = [run(1, [0, 0], [50, 0.2], [100, 0.4]), run(2, [0, 0.1], [50, 0.3], [100, 0.5])];

test("a measure is linear between evaluations", () => {
  assert.equal(valueAt(baseline[0]!, key, "queries", 0), 0);
  assert.equal(valueAt(baseline[0]!, key, "queries", 50), 0.1);
  assert.ok(Math.abs(valueAt(baseline[0]!, key, "passes", 1500) - 0.3) < 1e-12);
  assert.equal(valueAt(baseline[0]!, key, "queries", 999), 0.4);
});

test("a mean curve ends where the shortest run does", () => {
  const curve = meanCurve([...fast, run(3, [0, 0.2], [80, 0.6])], key, "queries");
  assert.equal(curve[0]!.at, 0);
  assert.ok(Math.abs(curve[0]!.mean - 0.1) < 1e-12);
  assert.ok(Math.abs(curve[0]!.low!) < 1e-12 && Math.abs(curve[0]!.high! - 0.2) < 1e-12);
  assert.equal(curve.at(-1)!.at, 80);
  assert.ok(Math.abs(curve.at(-1)!.mean - (0.32 + 0.42 + 0.6) / 3) < 1e-12);
});

test("settings are compared at the largest cost that both have reached, seed by seed", () => {
  const equal = atEqualCost(fast, baseline, key, "queries")!;
  assert.equal(equal.at, 100);
  assert.ok(Math.abs(equal.value.mean - 0.45) < 1e-12);
  assert.ok(Math.abs(equal.baseline.mean - 0.25) < 1e-12);
  // The seeds differ by 0.1, their differences do not differ.
  for (const value of [equal.difference!.mean, equal.difference!.low!, equal.difference!.high!]) {
    assert.ok(Math.abs(value - 0.2) < 1e-12);
  }
  assert.ok(equal.value.high! - equal.value.low! > 0.09);
  // Other seeds cannot be paired.
  assert.equal(atEqualCost([run(7, [0, 0], [10, 1])], baseline, key, "queries")!.difference, null);
  assert.equal(atEqualCost([], baseline, key, "queries"), null);
});

test("the cost of a target is where the mean curve reaches it, and its share of the baseline's", () => {
  const found = costToTarget(fast, baseline, key, "queries", 0.25);
  assert.ok(Math.abs(found.cost - 50) < 1e-9);
  assert.ok(Math.abs(found.ratio!.mean - 0.5) < 1e-9);
  // From seed 2 alone, which is there at 37.5, to seed 1 alone, which is there at 62.5.
  assert.ok(Math.abs(found.low! - 37.5) < 1e-9 && Math.abs(found.high! - 62.5) < 1e-9);
  assert.ok(Math.abs(found.ratio!.low! - 0.5) < 1e-9 && Math.abs(found.ratio!.high! - 0.5) < 1e-9);
  assert.equal(costToTarget(baseline, baseline, key, "passes", 0.9).cost, Infinity);
  assert.equal(costToTarget(baseline, baseline, key, "passes", 0.9).ratio, null);
  assert.equal(costToTarget(fast, baseline, key, "queries", 0).cost, 0);
});

test("without a target it is what the baseline reaches in the end, in each resample its own", () => {
  assert.ok(Math.abs(finalValue(baseline, key)!.mean - 0.45) < 1e-12);
  const found = costToTarget(fast, baseline, key, "queries");
  assert.ok(Math.abs(found.cost - 100) < 1e-9);
  assert.deepEqual(
    [found.ratio!.mean, found.ratio!.low, found.ratio!.high].map((ratio) => Math.round(1e6 * ratio!) / 1e6),
    [0.5, 0.5, 0.5],
  );
});

test("a setting reaches its own end, though its runs end at different costs", () => {
  const uneven = [run(1, [0, 0], [90, 0.1], [190, 0.3]), run(2, [0, 0.1], [110, 0.3], [210, 0.7])];
  assert.ok(Math.abs(costToTarget(uneven, uneven, key, "queries").cost - 210) < 1e-9);
  assert.equal(costToTarget(uneven, uneven, key, "queries").ratio!.mean, 1);
});

test("what another measure is where a target is reached", () => {
  const other = "training/diversity";
  const falling = (runs: readonly RunCurves[], perQuery: number): RunCurves[] =>
    runs.map((one) => ({
      ...one,
      points: one.points.map((point) => {
        return { ...point, measures: { ...point.measures, [other]: 1 - perQuery * point.cost.queries } };
      }),
    }));
  const [own, others] = [falling(fast, 0.004), falling(baseline, 0.001)];
  // The fast ones reach 0.25 with 50 queries, the baseline with 100.
  const left = atTarget(own, others, { reaches: key, key: other, target: 0.25 })!;
  assert.ok(Math.abs(left.value.mean - 0.8) < 1e-9);
  assert.ok(Math.abs(left.difference!.mean - (0.8 - 0.9)) < 1e-9);
  // Seed 1 alone reaches it with 62.5 and 125, seed 2 alone with 37.5 and 75.
  assert.ok(Math.abs(left.value.low! - 0.75) < 1e-9 && Math.abs(left.value.high! - 0.85) < 1e-9);
  // The baseline's own end, 0.45, which the fast ones reach with 100 queries.
  assert.ok(Math.abs(atTarget(own, others, { reaches: key, key: other })!.value.mean - 0.6) < 1e-9);
  assert.equal(atTarget(own, others, { reaches: key, key: other, target: 0.9 }), null);
  // Where the baseline does not get there, there is nothing to compare with.
  const further = falling([run(1, [0, 0], [50, 1]), run(2, [0, 0], [50, 1])], 0.004);
  const alone = atTarget(further, others, { reaches: key, key: other, target: 0.9 })!;
  assert.ok(Math.abs(alone.value.mean - 0.82) < 1e-9);
  assert.equal(alone.difference, null);
});
