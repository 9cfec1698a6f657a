import assert from "node:assert/strict";
import { test } from "node:test";
import { Generator, manualSeed, rand, randint, randn, randperm, type Tensor } from "./index.js";

const values = (x: Tensor): number[] => x.toArray();

test("a seed names a stream: the same numbers each time, other seeds others", () => {
  const draw = (seed: number): number[] => values(randn([32], { generator: new Generator(seed) }));
  assert.deepEqual(draw(7), draw(7));
  assert.notDeepEqual(draw(7), draw(8));
  assert.deepEqual(values(randn([32], { generator: new Generator(1).seed(7) })), draw(7));
});

test("the numbers are PyTorch's: torch.manual_seed(0), torch.randn(3) and torch.rand(3)", () => {
  const close = (x: Tensor, expected: number[]): void =>
    values(x).forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-4, `${value} ${expected[i]}`));
  close(randn([3], { generator: new Generator(0) }), [1.541, -0.2934, -2.1788]);
  close(rand([3], { generator: new Generator(0) }), [0.4963, 0.7682, 0.0885]);
});

test("a saved state continues where it was, also in another generator", () => {
  const generator = new Generator(3);
  randn([5], { generator });
  const state = generator.getState();
  const next = values(randn([17], { generator }));
  assert.deepEqual(values(randn([17], { generator: generator.setState(state) })), next);
  assert.deepEqual(values(randn([17], { generator: new Generator(99).setState(state) })), next);
});

test("manualSeed seeds the default generator; a generator of one's own does not touch it", () => {
  manualSeed(5);
  const expected = values(rand([4]));
  manualSeed(5);
  randn([100], { generator: new Generator(1) });
  assert.deepEqual(values(rand([4])), expected);
});

test("randint and randperm keep to their bounds", () => {
  const generator = new Generator(0);
  const drawn = values(randint(-2, 3, [1000], { generator }));
  assert.deepEqual(
    [...new Set(drawn)].sort((a, b) => a - b),
    [-2, -1, 0, 1, 2],
  );
  const order = values(randperm(100, { generator }));
  assert.deepEqual(
    order.toSorted((a, b) => a - b),
    Array.from({ length: 100 }, (_, i) => i),
  );
});

test("seeds of 64 bits", () => {
  const draw = (seed: bigint): number[] => values(rand([2], { generator: new Generator(seed) }));
  assert.deepEqual(draw(2n ** 63n + 1n), draw(2n ** 63n + 1n));
});
