/** 8-bit moments: the paper's map, bounded errors, AdamW's course, little memory, and a state that survives a save. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import { loadSafetensors, saveSafetensors } from "../safetensors/index.js";
import {
  Generator,
  inference,
  linear,
  liveTensors,
  nativeBytes,
  noGrad,
  peakNativeBytes,
  randn,
  silu,
  tensor,
  tidy,
  zeros,
  type Tensor,
} from "../torch/index.js";
import { BLOCK, BlockQuantizer, dynamicMap } from "./block-quantization.js";
import { AdamW, AdamW8bit } from "./index.js";

/** Quantised and dequantised. */
function roundTrip(x: Tensor, signed: boolean): Tensor {
  const quantizer = new BlockQuantizer(signed, "cpu");
  return inference(() => {
    const into = { codes: quantizer.zeroCodes([x.numel], "cpu"), absmax: zeros([Math.ceil(x.numel / BLOCK)]) };
    quantizer.quantize(x, into);
    const back = quantizer.dequantize(into);
    quantizer.dispose();
    return back;
  });
}

describe("dynamicMap", () => {
  // Index 0 0000001 of the signed map: no fraction bit, 10^-6 of the middle of [0.1, 1]. 0 000001f: 10^-5 times the
  // middles of the halves, 0.325 and 0.775. 0 1ffffff: 64 parts of 0.9 / 64, whose middles are from 0.10703125 to
  // 0.99296875. The unsigned map has one more bit of fraction everywhere.
  const close = (value: number, expected: number): void =>
    assert.ok(Math.abs(value - expected) <= 1e-12 * Math.abs(expected), `${value}, expected ${expected}`);

  test("signed: 127 numbers on each side of 0, and 1", () => {
    const map = dynamicMap({ signed: true });
    assert.equal(new Set(map).size, 256);
    assert.equal(map[127], 0);
    const expected = { 128: 5.5e-7, 129: 3.25e-6, 130: 7.75e-6, 191: 0.10703125, 254: 0.99296875, 255: 1 };
    for (const [index, value] of Object.entries(expected)) close(map[Number(index)]!, value);
    for (let i = 1; i <= 127; i++) close(map[127 - i]!, -map[127 + i]!);
  });

  test("unsigned: 0, 254 numbers with one more bit of fraction, and 1", () => {
    const map = dynamicMap({ signed: false });
    assert.equal(new Set(map).size, 256);
    const expected = { 0: 0, 1: 3.25e-7, 2: 7.75e-7, 3: 2.125e-6, 127: 0.103515625, 254: 0.996484375, 255: 1 };
    for (const [index, value] of Object.entries(expected)) close(map[Number(index)]!, value);
  });
});

describe("BlockQuantizer", () => {
  const magnitudes = (n: number): Tensor =>
    tensor(Array.from({ length: n }, (_, i) => 10 ** (-6 * ((i * 0.618) % 1)) * (i % 256 === 9 ? 50 : 1)));

  for (const signed of [true, false]) {
    test(`${signed ? "signed" : "unsigned"}: no element is further off than half the distance of its neighbours in the map`, () => {
      tidy(() => {
        const n = 2 * BLOCK + 77;
        const sign = tensor(Array.from({ length: n }, (_, i) => (signed && i % 3 === 0 ? -1 : 1)));
        const x = magnitudes(n).mul(sign);
        const back = roundTrip(x, signed).toArray();
        const map = dynamicMap({ signed });
        const values = x.toArray();
        for (const [i, value] of values.entries()) {
          const block = values.slice(BLOCK * Math.floor(i / BLOCK), BLOCK * Math.floor(i / BLOCK + 1));
          const absmax = Math.max(...block.map(Math.abs));
          const nearest = Math.min(...map.map((one) => Math.abs(one * absmax - value)));
          assert.ok(Math.abs(back[i]! - value) <= nearest + 1e-6 * Math.abs(value), `${i}: ${value}, ${back[i]}`);
        }
      });
    });
  }

  test("keeps zeros, the largest of a block, and a positive second moment above 0", () => {
    tidy(() => {
      const x = zeros([3 * BLOCK]);
      for (const [i, value] of [
        [0, 7],
        [1, 1e-12],
        [BLOCK, 3e-20],
      ] as const)
        x.narrow(0, i, 1).fill_(value);
      const expected = new Map([
        [0, 7],
        [1, 7 * 3.25e-7],
        [BLOCK, 3e-20],
      ]);
      roundTrip(x, false)
        .toArray()
        .forEach((value, i) => {
          const one = expected.get(i) ?? 0;
          assert.ok(Math.abs(value - one) <= 1e-6 * one, `${i}: ${value}`);
        });
    });
  });
});

/** Losses of a small network that learns from batches of examples whose features differ by `10^decades` in size. */
function losses(Optimizer: typeof AdamW, decades: number, steps: number): number[] {
  const generator = new Generator(1);
  const draw = (...shape: number[]): Tensor => randn(shape, { generator });
  return tidy(() => {
    const sizes = tensor(Array.from({ length: 64 }, (_, i) => 10 ** ((-decades * i) / 63)));
    const [hidden, out] = [draw(64, 96), draw(96, 8)];
    const parameters = new Map([
      ["in", draw(128, 64).mul(0.1).requiresGrad_()],
      ["middle", draw(128, 128).mul(0.1).requiresGrad_()],
      ["out", draw(8, 128).mul(0.1).requiresGrad_()],
    ]);
    const [first, second, third] = [...parameters.values()] as [Tensor, Tensor, Tensor];
    const optimizer = new Optimizer(parameters, { lr: 3e-3 });
    const all = Array.from({ length: steps }, () =>
      tidy(() => {
        const x = draw(64, 64);
        const expected = x.matmul(hidden).div(8).tanh().matmul(out).div(10);
        const predicted = linear(silu(linear(silu(linear(x.mul(sizes), first)), second)), third);
        const loss = predicted.sub(expected).square().mean();
        loss.backward();
        optimizer.step();
        optimizer.zeroGrad();
        return loss.item();
      }),
    );
    optimizer.dispose();
    return all;
  });
}

const meanOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value) / values.length;

describe("AdamW8bit", () => {
  // Measured on libtorch 1.13: 0.004% and 1% (lower). Gradients whose size differs have second moments from which 8 bits
  // make larger ones, and so smaller steps.
  for (const [decades, margin] of [
    [0, 0.01],
    [4, 0.05],
  ] as const) {
    test(`learns as AdamW does, from gradients over ${decades} powers of ten: ${100 * margin}% of the loss`, () => {
      const [wide, narrow] = [AdamW, AdamW8bit].map((Optimizer) => meanOf(losses(Optimizer, decades, 120).slice(-20)));
      assert.ok(Math.abs(narrow! - wide!) <= margin * wide!, `${narrow} with 8 bits, ${wide} with 32`);
    });
  }

  test("makes no huge step where a small gradient beside large ones vanishes", () => {
    const parameters = new Map([["a", zeros([4096]).requiresGrad_()]]);
    const a = parameters.get("a")!;
    const optimizer = new AdamW8bit(parameters, { lr: 1e-3, weightDecay: 0 });
    tidy(() => {
      for (let i = 0; i < 20; i++) {
        a.grad = zeros([4096]).fill_(1);
        // Its second moment is 1e-10 of the others'.
        a.grad.narrow(0, 5, 1).fill_(i < 19 ? 1e-5 : 0);
        const before = a.detach().clone();
        optimizer.step();
        const moved = a.detach().sub(before).abs().amax().item();
        assert.ok(moved <= 1.05e-3, `step ${i}: ${moved}`);
      }
    });
    optimizer.dispose();
  });

  test("goes on from a saved file as if it had not stopped, in any memory format", () => {
    const shapes = { "conv.weight": [40, 7, 5, 5], "linear.weight": [70, 61], "linear.bias": [70] };
    const generator = new Generator(2);
    const fresh = (): Map<string, Tensor> =>
      new Map(
        Object.entries(shapes).map(([name, shape]) => {
          const values = randn(shape, { generator: new Generator(shape.length) });
          const own = shape.length === 4 ? values.to({ memoryFormat: "channelsLast" }) : values;
          return [name, own.requiresGrad_()];
        }),
      );
    const grads = Array.from({ length: 5 }, () => Object.values(shapes).map((shape) => randn(shape, { generator })));
    const descend = (parameters: Map<string, Tensor>, optimizer: AdamW8bit, from: number, to: number): void => {
      for (const step of grads.slice(from, to)) {
        [...parameters.values()].forEach((parameter, i) => (parameter.grad = step[i]!));
        optimizer.step();
      }
    };
    const whole = fresh();
    descend(whole, new AdamW8bit(whole, { lr: 0.1 }), 0, 5);
    const parts = fresh();
    const before = new AdamW8bit(parts, { lr: 0.1 });
    descend(parts, before, 0, 3);
    const file = join(temporaryFolder(), "optimizer.safetensors");
    saveSafetensors(file, before.state());
    const after = new AdamW8bit(parts, { lr: 0.1 });
    after.loadState(loadSafetensors(file), file);
    descend(parts, after, 3, 5);
    for (const [name, value] of whole) assert.ok(value.equal(parts.get(name)!), name);
    // Of row-major parameters the same.
    const rows = new Map([...fresh()].map(([name, value]) => [name, value.detach().contiguous().requiresGrad_()]));
    descend(rows, new AdamW8bit(rows, { lr: 0.1 }), 0, 5);
    for (const [name, value] of whole) assert.ok(value.equal(rows.get(name)!), name);
  });

  test("refuses AdamW's state, and AdamW refuses its", () => {
    const parameters = new Map([["a", zeros([64, 64]).requiresGrad_()]]);
    noGrad(() => (parameters.get("a")!.grad = zeros([64, 64])));
    const [wide, narrow] = [new AdamW(parameters), new AdamW8bit(parameters)];
    wide.step();
    narrow.step();
    assert.throws(
      () => narrow.loadState(wide.state()),
      /exp_avg: Expected uint8 \[64, 64\] but received float32 \[64, 64\]\n.*\n.*exp_avg_absmax: Expected float32 \[16\] but received nothing/,
    );
    assert.throws(() => wide.loadState(narrow.state()), /a\.exp_avg_absmax: Expected no such key/);
  });

  test("holds 2.03 bytes of moments a parameter, needs little more in a step, and keeps no handles", () => {
    const parameters = new Map([
      ["a", zeros([3000, 1100]).requiresGrad_()],
      ["b", zeros([10]).requiresGrad_()],
    ]);
    tidy(() => {
      for (const parameter of parameters.values()) parameter.grad = zeros(parameter.shape);
    });
    const weights = nativeBytes();
    const optimizer = new AdamW8bit(parameters);
    optimizer.step();
    const live = liveTensors();
    const count = 3000 * 1100;
    const held = nativeBytes() - weights;
    // And the tables of both maps.
    const expected = 2 * count + 2 * 4 * Math.ceil(count / BLOCK) + 2 * 5 * 2 ** 16;
    // Moments of `b` and whole pages of memory come on top.
    assert.ok(held >= expected && held < expected + 10_000, `${held} bytes for ${expected}`);
    const peak = peakNativeBytes(() => optimizer.step()) - weights - held;
    assert.ok(peak < 40e6, `${peak} bytes`);
    assert.equal(liveTensors(), live);
    optimizer.dispose();
    assert.equal(nativeBytes(), weights);
  });
});
