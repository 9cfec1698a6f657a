import assert from "node:assert/strict";
import { test } from "node:test";
import { tensor } from "../../torch/index.js";
import { changeWeights } from "./step-weights.js";

test("a step weighs its squared change over the mean squared change of its sample", () => {
  // Two samples of 2 latent dimensions, 3 states each: squared changes 1 and 4, then 0 and 0 for the second.
  const states = [[0, 0], [1, 1], [3, -1], [5, 5], [5, 5], [5, 5]]; // prettier-ignore
  const latents = tensor(Float32Array.from(states.flat()), { shape: [2, 3, 2] });
  const keys = [0, 1].map((root) => ({ root, branch: 0, prompt: "a" }));
  const weight = changeWeights({ keys, latents, timesteps: [500, 250] });
  assert.deepEqual(
    [0, 1].map((step) => weight({ row: 0, step })),
    [1 / 2.5, 4 / 2.5],
  );
  assert.deepEqual(
    [0, 1].map((step) => weight({ row: 1, step })),
    [1, 1],
    "latents that never move",
  );
  latents.dispose();
});
