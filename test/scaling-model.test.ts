// The arithmetic of the model on paper of bench/scaling.ts: whole batches, and the factors of collectives.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { sdxl, secondsOfStage, stageOf, treeSeconds } from "../bench/scaling/cards.js";
import {
  BUCKET,
  collectivesOf,
  fitLink,
  MOST_GATHERED,
  overlapped,
  pairsOfUpdates,
  secondsOf,
  slowestShare,
  trafficOf,
  type StageWork,
} from "../bench/scaling/model.js";
import { limits } from "../src/b2/update/gradients.js";

const work: StageWork = {
  roots: 10,
  branches: 4,
  steps: 10,
  interval: 8,
  trainedSteps: 4,
  sampleBatch: 6,
  decodeBatch: 6,
  selected: 20,
  epochs: 2,
  samplesPerUpdate: 12,
  microBatch: 6,
  latentBytes: 2048,
  parameters: 1000,
};

const near = (actual: number, expected: number): void =>
  assert.ok(Math.abs(actual - expected) <= 1e-12 + 1e-9 * Math.abs(expected), `${actual} instead of ${expected}`);

describe("the slowest worker", () => {
  test("has a whole batch more where batches do not divide", () => {
    // 80 batches of 16: 27, 27 and 26; and no less than one for many workers.
    near(slowestShare(1280, 16, 3, { row: 1, floor: 0 }), 27 * 16);
    near(slowestShare(1280, 16, 512, { row: 1, floor: 0 }), 16);
    // 10 rows in batches of 6 and 4: the second worker has the smaller one.
    near(slowestShare(10, 6, 2, { row: 1, floor: 0 }), 6);
  });

  test("takes the floor for a batch that does not fill a card", () => {
    near(slowestShare(10, 6, 1, { row: 1, floor: 5 }), 6 + 5);
    near(slowestShare(4, 1, 2, { row: 1, floor: 5 }), 10);
    near(slowestShare(0, 6, 2, { row: 1, floor: 5 }), 0);
  });
});

test("the optimiser steps of a stage go on over epochs, and the last one may be smaller", () => {
  assert.deepEqual(pairsOfUpdates(work), [48, 48, 48, 16]);
});

describe("collectives", () => {
  test("send by tree and ring", () => {
    assert.deepEqual(trafficOf("broadcast", 5, 100), { messages: 3, bytes: 300 });
    assert.deepEqual(trafficOf("allGather", 5, 100), { messages: 4, bytes: 400 });
    assert.deepEqual(trafficOf("allReduce_", 5, 100), { messages: 8, bytes: 160 });
    assert.deepEqual(trafficOf("allReduce_", 1, 100), { messages: 0, bytes: 0 });
  });

  test("exchange all latents, by those workers that have rows", () => {
    const [roots, latents, logProbs] = collectivesOf(work, 4).sample;
    // 2 batches of roots, 7 of branches.
    assert.deepEqual([roots!.count, latents!.count], [2, 4]);
    near(roots!.count * roots!.bytes, 40 * 2048);
    near(latents!.count * latents!.bytes, 40 * 9 * 2048);
    near(logProbs!.count * logProbs!.bytes, 40 * 8 * 4);
    assert.deepEqual(collectivesOf(work, 1), { sample: [], score: [], train: [] });
  });

  test("gather a LoRA's gradients whole, and sum larger ones in buckets", () => {
    const [lora] = collectivesOf(work, 2).train;
    assert.deepEqual(lora, { name: "allGather", count: 4, bytes: 4000 });
    const [full] = collectivesOf({ ...work, parameters: 65e6 }, 2).train;
    assert.equal(full!.name, "allReduce_");
    assert.equal(full!.count, 4 * 10);
    near(full!.count * full!.bytes, 4 * 4 * 65e6);
  });

  test("take alpha for messages and beta for bytes, which a fit finds", () => {
    const link = { alpha: 2e-4, beta: 1e-9 };
    const links = { broadcast: link, allGather: link, allReduce_: link };
    const timed = [1e3, 1e5, 1e7].map((bytes) => ({
      ...trafficOf("allGather", 3, bytes),
      seconds: secondsOf([{ name: "allGather", count: 1, bytes }], 3, links),
    }));
    near(timed[1]!.seconds, 2 * (2e-4 + 1e-4));
    const fitted = fitLink(timed);
    near(fitted.alpha, link.alpha);
    near(fitted.beta, link.beta);
    // Larger messages that are quicker: no negative alpha.
    const odd = fitLink([
      { messages: 1, bytes: 1e3, seconds: 1e-6 },
      { messages: 1, bytes: 1e6, seconds: 2e-3 },
    ]);
    assert.equal(odd.alpha, 0);
    assert.ok(odd.beta > 0);
  });
});

test("an overlapped sum takes its last bucket at least, and all of them at most", () => {
  near(overlapped(10, 0.1, 20), 10.1);
  near(overlapped(1, 1, 20), 1 / 20 + 20);
  near(overlapped(0, 1, 20), 20);
});

describe("many cards", () => {
  test("a tree over 16 nodes shares each node's network", () => {
    const [small, large] = [treeSeconds(128, 0), treeSeconds(128, 1e9)];
    // Three steps on loopback at 2 GB/s, four between nodes at an eighth of 12.5 GB/s.
    near(large - small, 3 / 2 + (4 * 8) / 12.5);
  });

  test("a stage on one card is all compute, apart from what is written", () => {
    const stage = stageOf({ model: sdxl, weights: "lora", cards: 1, roots: 32, samplesPerUpdate: 16 });
    const { ideal, trajectories, evaluation } = stage;
    near(secondsOfStage(stage), ideal + trajectories + evaluation);
  });
});

test("the sizes of what is gathered and of buckets are those of training", () => {
  assert.deepEqual({ gathered: MOST_GATHERED, bucket: BUCKET }, limits);
});
