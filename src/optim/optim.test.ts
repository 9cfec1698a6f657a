/** AdamW's state survives a save; clipping has PyTorch's numbers. (AdamW's own numbers: test/golden-lora.test.ts.) */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { InputError } from "../base/errors.js";
import { liveTensors, tensor, tidy, type Tensor } from "../torch/index.js";
import { AdamW, clipGradNorm, GradScaler } from "./index.js";

const fresh = () =>
  new Map([
    ["a", tensor([1, -2]).requiresGrad_()],
    ["b", tensor([[0.5]]).requiresGrad_()],
  ]);

function descend(parameters: Map<string, Tensor>, optimizer: AdamW, steps: number): void {
  for (let i = 0; i < steps; i++) {
    tidy(() => parameters.get("a")!.square().sum().add(parameters.get("b")!.square().sum()).backward());
    optimizer.step();
    optimizer.zeroGrad();
  }
}

describe("AdamW", () => {
  test("goes on from a saved state as if it had not stopped", () => {
    const whole = fresh();
    descend(whole, new AdamW(whole, { lr: 0.1 }), 5);

    const first = fresh();
    const before = new AdamW(first, { lr: 0.1 });
    descend(first, before, 3);
    const second = new Map([...first].map(([key, value]) => [key, value.detach().clone().requiresGrad_()]));
    const after = new AdamW(second, { lr: 0.1 });
    after.loadState(before.state());
    descend(second, after, 2);
    for (const [key, value] of whole) assert(value.equal(second.get(key)!), key);
  });

  test("refuses a state that does not fit, and leaves parameters without a gradient alone", () => {
    const parameters = fresh();
    const optimizer = new AdamW(parameters);
    assert.throws(
      () =>
        optimizer.loadState(
          new Map([
            ["a.exp_avg", tensor([1, 2])],
            ["a.exp_avg_sq", tensor([1, NaN])],
            ["b.exp_avg", tensor([1])],
            ["b.exp_avg_sq", tensor([[1]])],
            ["b.step", tensor([0], { dtype: "int64" })],
            ["c.step", tensor([1])],
          ]),
          "optimizer.safetensors",
        ),
      (error: Error) => {
        assert(error instanceof InputError);
        assert.deepEqual(error.message.split("\n  "), [
          "optimizer.safetensors: Expected the state of an optimiser of these parameters but received 5 that differ:",
          "a.exp_avg_sq: Expected finite numbers but received NaN or infinity",
          "a.step: Expected int64 [1] but received nothing",
          "b.exp_avg: Expected float32 [1, 1] but received float32 [1]",
          "b.step: Expected a positive number but received 0",
          "c.step: Expected no such key",
        ]);
        return true;
      },
    );
    optimizer.step();
    assert.deepEqual(parameters.get("a")!.toArray(), [1, -2]);
  });

  test("keeps no handles from step to step", () => {
    const parameters = fresh();
    const optimizer = new AdamW(parameters);
    descend(parameters, optimizer, 1);
    const before = liveTensors();
    descend(parameters, optimizer, 5);
    assert.equal(liveTensors(), before);
  });
});

describe("clipGradNorm", () => {
  test("scales to the norm over all, and no shorter gradient", () => {
    const parameters = fresh();
    parameters.get("a")!.grad = tensor([3, 0]);
    parameters.get("b")!.grad = tensor([[4]]);
    assert.equal(clipGradNorm(parameters.values(), 10), 5);
    assert.deepEqual(parameters.get("b")!.grad!.toArray(), [4]);
    assert.equal(clipGradNorm(parameters.values(), 1), 5);
    assert(Math.abs(parameters.get("b")!.grad!.item() - 0.8) < 1e-6);
  });
});

test("GradScaler divides the gradients by its scale, and leaves no handle of them behind", () => {
  const parameters = fresh();
  tidy(() => (parameters.get("b")!.grad = tensor([[4]])));
  const live = liveTensors();
  new GradScaler({ initScale: 8 }).unscale_(parameters.values());
  assert.equal(liveTensors(), live);
  assert.deepEqual(parameters.get("b")!.grad!.toArray(), [0.5]);
});
