import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { explicitAttention } from "./attention.js";
import { linear, ones, profileOperators, tidy, TorchError, type OperatorProfile, type Tensor } from "./index.js";
import { native } from "./native.js";

const find = (profile: readonly OperatorProfile[], name: string): OperatorProfile => {
  const found = profile.find((operator) => operator.name === name);
  assert.ok(found !== undefined, `${name} is not among ${profile.map((operator) => operator.name).join()}`);
  return found;
};

test("a profile counts calls and shapes by operator", () => {
  const [x, weight] = [ones([4, 3]), ones([2, 3])];
  const profile = profileOperators(() => {
    linear(x, weight).add(1);
    linear(x, weight, ones([2]));
    linear(ones([5, 3]), weight);
  });
  const { calls, milliseconds, shapes } = find(profile, "aten::linear");
  assert.equal(calls, 3);
  assert.ok(milliseconds > 0);
  // prettier-ignore
  assert.deepEqual(shapes, [
    { inputs: [[4, 3], [2, 3], null], output: [4, 2], calls: 1 },
    { inputs: [[4, 3], [2, 3], [2]], output: [4, 2], calls: 1 },
    { inputs: [[5, 3], [2, 3], null], output: [5, 2], calls: 1 },
  ]);
  assert.deepEqual(find(profile, "aten::add.Scalar").shapes, [{ inputs: [[4, 2], null], output: [4, 2], calls: 1 }]);
  const times = profile.map((operator) => operator.milliseconds);
  assert.deepEqual(
    times,
    [...times].sort((a, b) => b - a),
  );
});

test("the same shapes are counted together, and an operator in place has no output", () => {
  const x = ones([2]);
  const profile = profileOperators(() => {
    for (let i = 0; i < 3; i++) x.add_(1);
  });
  assert.deepEqual(profile, [
    {
      name: "aten::add_.Scalar",
      calls: 3,
      milliseconds: profile[0]!.milliseconds,
      shapes: [{ inputs: [[2], null], output: null, calls: 3 }],
    },
  ]);
});

test("backward and attention in blocks are seen, each as one", () => {
  const [q, k, v] = [0, 1, 2].map(() => ones([1, 2, 40, 8]).requiresGrad_()) as [Tensor, Tensor, Tensor];
  const profile = profileOperators(() => tidy(() => explicitAttention(q, k, v, {}, 100).sum().backward()));
  const shape = [1, 2, 40, 8];
  assert.deepEqual(find(profile, "blockedAttention").shapes, [
    { inputs: [shape, shape, shape, null, null, null, null], output: shape, calls: 1 },
  ]);
  assert.deepEqual(find(profile, "backward").shapes, []);
});

test("nothing is profiled before and after, after an error either; profiles may be nested", () => {
  const addon = native;
  let inner: OperatorProfile[] = [];
  const outer = profileOperators(() => {
    ones([1]);
    inner = profileOperators(() => ones([1]).neg());
  });
  assert.equal(find(outer, "aten::full").calls, 2);
  assert.equal(find(inner, "aten::full").calls, 1);
  assert.throws(() => profileOperators(() => ones([2]).add(ones([3]))), TorchError);
  assert.equal(native, addon);
  assert.deepEqual(
    profileOperators(() => undefined),
    [],
  );
});

test("work may be asynchronous", async () => {
  const addon = native;
  const profile = await profileOperators(async () => {
    ones([1]).neg();
    await setImmediate();
    ones([1]).neg();
  });
  assert.equal(find(profile, "aten::neg").calls, 2);
  await assert.rejects(
    profileOperators(async () => {
      await setImmediate();
      throw new Error("in the middle");
    }),
    /in the middle/,
  );
  assert.equal(native, addon);
});
