import assert from "node:assert/strict";
import { test } from "node:test";
import { tensor } from "../../torch/index.js";
import { resolveConfig } from "../config/resolve.js";
import { dpo } from "../objectives/dpo.js";
import { ppo } from "../objectives/ppo.js";
import { disposeRecord, type TrainSet } from "../records.js";
import { planUpdates, type Pair } from "./plan.js";
import { withReplay } from "./replay.js";
import { timestepsOfStage } from "./timesteps.js";

/** Trajectories of one number a state: 100 times the stage, 10 times the row, and the state. Log-probs without states. */
function selection(stage: number, steps: number, advantages: readonly number[], roots?: readonly number[]): TrainSet {
  const rows = advantages.map((_, row) => 100 * stage + 10 * row);
  const states = rows.flatMap((row) => Array.from({ length: steps + 1 }, (_, state) => row + state));
  return {
    stage,
    keys: rows.map((_, row) => ({ root: roots?.[row] ?? row, branch: row % 2, prompt: `${stage}` })),
    timesteps: Array.from({ length: steps }, (_, i) => 10 * (steps - i)),
    latents: tensor(Float32Array.from(states), { shape: [rows.length, steps + 1, 1] }),
    logProbs: tensor(Float32Array.from(states.filter((_, i) => i % (steps + 1) < steps)), {
      shape: [rows.length, steps],
    }),
    advantages,
  };
}

test("the largest advantages of earlier stages come along; shorter intervals begin later", () => {
  const present = selection(7, 3, [0.1, -0.2, 0.3, 0.4]);
  const past = [selection(5, 2, [-2, 0.5]), selection(6, 3, [1, -0.1, 1.5])];
  const all = withReplay(present, past, ppo, 0.5);
  assert.equal(all.stage, 7);
  assert.deepEqual(all.timesteps, [30, 20, 10]);
  assert.deepEqual(all.advantages, [0.1, -0.2, 0.3, 0.4, 1.5, -2]);
  assert.deepEqual(
    all.keys.map(({ stage, prompt, edge }) => [stage, prompt, edge!.from, edge!.to]),
    [...Array<unknown>(4).fill([7, "7", 0, 3]), [6, "6", 0, 3], [5, "5", 1, 3]],
  );
  assert.deepEqual(all.latents.flatten(1).slice(0, 4, 6).toArray(), [620, 621, 622, 623, 0, 500, 501, 502]);
  assert.deepEqual(all.logProbs!.slice(0, 4, 6).toArray(), [620, 621, 622, 0, 500, 501]);
  [present, ...past, all].forEach(disposeRecord);
});

test("only the steps of a row's own part are planned", () => {
  const present = selection(7, 3, [1]);
  const past = selection(6, 2, [1, 1]);
  const all = withReplay(present, [past], ppo, 2);
  const config = resolveConfig({ train: { epochs: 1 }, interval: { first: 3, last: 3 } });
  const [[pairs]] = planUpdates(all, ppo, config, timestepsOfStage(all, config, [])) as [[Pair[]]];
  const planned = pairs.map(({ item, step }) => `${item[0]}:${step}`).sort();
  assert.deepEqual(planned, ["0:0", "0:1", "0:2", "1:1", "1:2", "2:1", "2:2"]);
  [present, past, all].forEach(disposeRecord);
});

test("items are replayed as a whole, and are not mixed up with those of other stages", () => {
  // Root 0 in both stages has a best and a worst branch; root 1 of the earlier one has lost its sibling.
  const present = selection(7, 2, [1, -1], [0, 0]);
  const past = selection(6, 2, [2, -2, 9], [0, 0, 1]);
  const all = withReplay(present, [past], dpo, 1);
  assert.deepEqual(all.advantages, [1, -1, 2, -2]);
  assert.deepEqual(dpo.items!(all), [[0, 1], [2, 3]]); // prettier-ignore
  [present, past, all].forEach(disposeRecord);
});
