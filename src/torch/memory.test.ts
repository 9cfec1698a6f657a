import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  enableGrad,
  grad,
  keep,
  liveTensors,
  nativeBytes,
  ones,
  tensor,
  tidy,
  TorchError,
  zeros,
  type Device,
  type Tensor,
} from "./index.js";
import { native } from "./native.js";

/** A garbage collection on request, without a flag on the command line. */
function collector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}

test("tidy releases what its function made and keeps its result, nested too", () => {
  const before = liveTensors();
  const kept = tidy(() => {
    const a = ones([2]).add(1);
    const inner = tidy(() => [a.mul(2), { deep: new Map([["x", a.mul(3)]]) }] as const);
    return { a: inner[0], more: [inner[1]] };
  });
  assert.equal(liveTensors(), before + 2);
  assert.deepEqual(kept.a.toArray(), [4, 4]);
  const deep = kept.more[0]!.deep.get("x")!;
  assert.deepEqual(deep.toArray(), [6, 6]);
  kept.a.dispose();
  deep.dispose();
  assert.equal(liveTensors(), before);
});

test("tidy releases when its function throws", () => {
  const before = liveTensors();
  assert.throws(() =>
    tidy(() => {
      ones([4]).add(ones([3]));
    }),
  );
  assert.equal(liveTensors(), before);
});

test("a tensor given to keep outlives every tidy around it", () => {
  const before = liveTensors();
  let kept: Tensor | undefined;
  tidy(() => {
    tidy(() => {
      kept = keep(ones([2]));
    });
  });
  assert.equal(kept!.disposed, false);
  kept!.dispose();
  assert.equal(liveTensors(), before);
});

test("the same tensor twice in a result is kept once", () => {
  const before = liveTensors();
  const [x, y] = tidy(() => {
    const one = ones([1]);
    return [one, one];
  });
  assert.equal(x, y);
  x.dispose();
  assert.equal(liveTensors(), before);
});

test("a training step leaves no handle and no byte behind", () => {
  const weight = zeros([64, 64]).requiresGrad_();
  const step = (): void =>
    tidy(() => {
      ones([8, 64]).matmul(weight).sub(1).square().mean().backward();
      const gradient = weight.grad!;
      tidy(() => weight.detach().sub_(gradient));
      weight.grad = null;
    });
  step();
  const handles = liveTensors();
  const bytes = nativeBytes();
  for (let i = 0; i < 20; i++) step();
  assert.equal(liveTensors(), handles);
  assert.equal(nativeBytes(), bytes);
  weight.dispose();
});

test("grad inside tidy leaves nothing behind", () => {
  const x = ones([3]).requiresGrad_();
  const before = liveTensors();
  const second = tidy(() =>
    enableGrad(() => {
      const [first] = grad(x.pow(3).sum(), [x], undefined, { createGraph: true });
      return grad(first!.sum(), [x])[0]!;
    }),
  );
  assert.deepEqual(second.toArray(), [6, 6, 6]);
  assert.equal(liveTensors(), before + 1);
  second.dispose();
  x.dispose();
});

test("native bytes are counted, views only once", () => {
  const before = nativeBytes();
  const big = zeros([8 << 20]); // 32 MB
  const view = big.reshape([-1, 2]);
  const held = nativeBytes() - before;
  assert.ok(held >= 32 << 20 && held < 33 << 20, `${held} bytes`);
  big.dispose();
  assert.ok(nativeBytes() - before >= 32 << 20, "a view holds the memory");
  view.dispose();
  assert.ok(nativeBytes() - before < 1 << 20);
});

test("V8 gets reports of what collecting can free, and not of what a tidy holds", async () => {
  await setImmediate();
  const before = native.externalBytes();
  const reported = (): number => native.externalBytes() - before;
  const close = (bytes: number, expected: number): void =>
    assert.ok(Math.abs(bytes - expected) <= 4 << 20, `${bytes} bytes were reported to V8`);
  const big = tidy(() => {
    tidy(() => zeros([8 << 20]).add(1)); // 64 MB
    const result = ones([4 << 20]); // 16 MB
    assert.equal(reported(), 0);
    return result;
  });
  close(reported(), 16 << 20);
  const more = zeros([8 << 20]);
  await setImmediate();
  close(reported(), 48 << 20);
  big.dispose();
  more.dispose();
  close(reported(), 0);
});

test("garbage collection releases what nobody disposed of", async () => {
  const gc = collector();
  const before = liveTensors();
  (() => {
    for (let i = 0; i < 3000; i++) tensor([i]);
  })();
  assert.ok(liveTensors() >= before + 3000);
  for (let i = 0; i < 50 && liveTensors() > before; i++) {
    await setImmediate();
    gc();
    await setImmediate();
  }
  assert.ok(liveTensors() <= before, `${liveTensors() - before} left`);
});

const META = "meta" as Device; // libtorch's device without memory, which is not one that the library offers

test("a tensor that moves is the same one for all who hold it, and what it had is freed at once", () => {
  const [live, bytes] = [liveTensors(), nativeBytes()];
  const weight = zeros([2 ** 18]).requiresGrad_();
  const layer = { weight };
  assert.equal(weight.moveTo_("cpu"), weight);
  assert.ok(nativeBytes() - bytes >= 2 ** 20);
  assert.equal(weight.moveTo_(META), weight);
  assert.equal(layer.weight.device, META);
  assert.deepEqual([weight.shape, weight.dtype, weight.requiresGrad], [[2 ** 18], "float32", true]);
  assert.equal(liveTensors(), live + 1);
  assert.ok(nativeBytes() - bytes < 2 ** 20);
  weight.dispose();
  assert.equal(liveTensors(), live);
  // A result of tidy is released by the one around it, as any other.
  tidy(() => void tidy(() => zeros([2])).moveTo_(META));
  assert.equal(liveTensors(), live);
});

test("tensors that have moved are collected as garbage, and no other in their place", async () => {
  const gc = collector();
  const live = liveTensors();
  const staying = await (async () => {
    const moved = Array.from({ length: 100 }, () => zeros([2]));
    await setImmediate(); // the garbage collector watches them from here on
    moved.forEach((tensor) => tensor.moveTo_(META));
    return Array.from({ length: 100 }, () => zeros([2])); // in the slots that became free
  })();
  for (let i = 0; i < 50 && liveTensors() > live + 100; i++) {
    await setImmediate();
    gc();
    await setImmediate();
  }
  assert.equal(liveTensors(), live + 100);
  for (const tensor of staying) {
    assert.deepEqual(tensor.toArray(), [0, 0]);
    tensor.dispose();
  }
});

test("a tensor that cannot move stays what it is", () => {
  const x = ones([2]);
  assert.throws(() => x.moveTo_("cuda:99"), TorchError);
  assert.deepEqual(x.toArray(), [1, 1]);
  x.dispose();
});
