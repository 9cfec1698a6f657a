import assert from "node:assert/strict";
import { test } from "node:test";
import { fillNormal, permutation, philox4x32, uniform, type RandomAddress } from "./philox.js";

const address: RandomAddress = { seed: 42, stream: "trajectory", stage: 3, root: 7, branch: 1, step: 2 };

test("philox4x32-10 gives the known answers of Random123", () => {
  const out = new Uint32Array(4);
  philox4x32(out, 0, 0, 0, 0, 0, 0);
  assert.deepEqual([...out], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const ones = 0xffffffff;
  philox4x32(out, ones, ones, ones, ones, ones, ones);
  assert.deepEqual([...out], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  philox4x32(out, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0);
  assert.deepEqual([...out], [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
});

test("normal numbers have the moments of a normal distribution", () => {
  const n = 200_000;
  const out = new Float32Array(n);
  fillNormal(out, 0, n, address);
  const moment = (p: number): number => out.reduce((sum, x) => sum + x ** p, 0) / n;
  assert.ok(Math.abs(moment(1)) < 0.01);
  assert.ok(Math.abs(moment(2) - 1) < 0.02);
  assert.ok(Math.abs(moment(3)) < 0.03);
  assert.ok(Math.abs(moment(4) - 3) < 0.1);
});

test("a number depends on every field of its address, and not on how many are drawn", () => {
  const draw = (at: RandomAddress, n = 3): number[] => {
    const out = new Float32Array(n + 1);
    fillNormal(out, 1, n, at);
    return [...out.subarray(1)];
  };
  assert.deepEqual(draw(address, 30).slice(0, 3), draw(address, 3));
  const others: RandomAddress[] = [
    { ...address, seed: 43 },
    { ...address, stream: "evaluation" },
    { ...address, stage: 4 },
    { ...address, root: 8 },
    { ...address, branch: 2 },
    { ...address, step: 3 },
  ];
  for (const other of others) assert.notDeepEqual(draw(other), draw(address));
  assert.notEqual(uniform(address), uniform(others[0]!));
});

test("a permutation holds every index once", () => {
  const order = permutation(1000, address);
  assert.deepEqual(
    [...order].sort((a, b) => a - b),
    [...Array(1000).keys()],
  );
  assert.notDeepEqual(
    [...order],
    [...order].sort((a, b) => a - b),
  );
  assert.deepEqual([...permutation(0, address)], []);
});
