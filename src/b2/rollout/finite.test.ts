import assert from "node:assert/strict";
import { test } from "node:test";
import { liveTensors, ones, tidy } from "../../torch/index.js";
import { disposeRecord, type BranchBatch } from "../records.js";
import { withoutNotFinite } from "./finite.js";

/** Five roots of two branches, three states of two numbers. */
function batch(): BranchBatch {
  const keys = Array.from({ length: 10 }, (_, i) => ({ root: Math.floor(i / 2), branch: i % 2, prompt: `p${i >> 1}` }));
  return { stage: 3, keys, timesteps: [40, 20], latents: ones([10, 3, 2]), logProbs: ones([10, 2]) };
}

/** Writes a value into a row from a state on, as the steps of a trajectory carry it on. */
function poison({ latents, logProbs }: BranchBatch, row: number, state: number, value = NaN): void {
  tidy(() => {
    latents.select(0, row).slice(0, state, 3).fill_(value);
    if (logProbs !== undefined && state < 3)
      logProbs
        .select(0, row)
        .slice(0, Math.max(0, state - 1), 2)
        .fill_(value);
  });
}

test("a stage of numbers is passed on as it is", () => {
  const whole = batch();
  const { batch: same, leftOut } = withoutNotFinite(whole);
  assert.equal(same, whole);
  assert.deepEqual(leftOut, []);
  disposeRecord(whole);
});

test("roots with NaN or infinity in any branch are left out whole, with the earliest timestep; others keep their rows", () => {
  const live = liveTensors();
  const whole = batch();
  poison(whole, 2, 2);
  poison(whole, 3, 1, Infinity);
  poison(whole, 8, 0);
  tidy(() => void whole.latents.select(0, 6).fill_(7));
  const { batch: rest, leftOut } = withoutNotFinite(whole);
  assert.deepEqual(leftOut, [
    { root: 1, prompt: "p1", timestep: 40 },
    { root: 4, prompt: "p4", timestep: null },
  ]);
  assert.deepEqual(
    rest.keys.map(({ root, branch }) => [root, branch]),
    [
      [0, 0],
      [0, 1],
      [2, 0],
      [2, 1],
      [3, 0],
      [3, 1],
    ],
  );
  assert.deepEqual(
    [rest.latents.shape, rest.logProbs!.shape],
    [
      [6, 3, 2],
      [6, 2],
    ],
  );
  assert.deepEqual(
    tidy(() => rest.latents.select(1, 0).select(1, 0).toArray()),
    [1, 1, 1, 1, 7, 1],
  );
  disposeRecord(rest);
  assert.equal(liveTensors(), live);
});

test("a log-prob that is none counts, and so do final latents alone; more than half of the roots are refused", () => {
  const whole = batch();
  tidy(() => void whole.logProbs!.select(0, 9).select(0, 1).fill_(-Infinity));
  const { batch: rest, leftOut } = withoutNotFinite(whole);
  assert.deepEqual(leftOut, [{ root: 4, prompt: "p4", timestep: 20 }]);
  disposeRecord(rest);

  const finals = { ...batch(), logProbs: undefined };
  poison(finals, 5, 2);
  const { batch: others, leftOut: one } = withoutNotFinite(finals);
  assert.deepEqual(one, [{ root: 2, prompt: "p2", timestep: null }]);
  disposeRecord(others);

  const bad = batch();
  for (const row of [0, 2, 4]) poison(bad, row, 1);
  assert.throws(
    () => withoutNotFinite(bad),
    /half of the 5 roots of stage 3 but received NaN or infinity for 3, the first of them root 0 \("p0"\), from timestep 40 on: /,
  );
});
