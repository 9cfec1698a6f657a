import assert from "node:assert/strict";
import { test } from "node:test";
import { liveTensors, tensor, tidy, zeros } from "../torch/index.js";
import { cosineDistance, meanOverPairs, pixelDistance, pixelRows, unitRows } from "./diversity.js";

test("the mean over pairs needs two, and counts each pair once", () => {
  const distance = (a: number, b: number): number => Math.abs(a - b);
  assert.equal(meanOverPairs([], distance), null);
  assert.equal(meanOverPairs([3], distance), null);
  assert.equal(meanOverPairs([0, 1, 5], distance), (1 + 5 + 4) / 3);
});

test("features are compared by their directions", () => {
  const [a, b, c] = tidy(() =>
    unitRows(() => tensor([3, 0, 0, 0.5, -2, 0], { shape: [3, 2] }), zeros([3, 3, 8, 8])),
  ) as [Float32Array, Float32Array, Float32Array];
  assert.deepEqual([cosineDistance(a, b), cosineDistance(a, c), cosineDistance(a, a)], [1, 2, 0]);
});

test("large images are compared at a size that leaves out their grain, small ones pixel by pixel", () => {
  const before = liveTensors();
  const distanceOf = (side: number): number =>
    tidy(() => {
      const columns = Array.from({ length: side }, (_, x) => x % 2);
      const stripes = tensor(columns).reshape([1, 1, 1, side]).expand([1, 3, side, side]).contiguous();
      const [a] = pixelRows(stripes);
      const [b] = pixelRows(zeros([1, 3, side, side]).add(0.25));
      return pixelDistance(a!, b!);
    });
  assert.equal(distanceOf(64), 0.5, "0.75 and 0.25 in turn");
  assert.equal(distanceOf(128), 0.25, "stripes of one pixel are grey");
  assert.equal(liveTensors(), before);
});
