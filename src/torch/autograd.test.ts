import assert from "node:assert/strict";
import { test } from "node:test";
import {
  enableGrad,
  grad,
  inference,
  isGradEnabled,
  linear,
  liveTensors,
  noGrad,
  ones,
  tensor,
  TorchError,
  type Tensor,
} from "./index.js";

function near(actual: Tensor, expected: number[], tolerance = 1e-6): void {
  const values = actual.toArray();
  assert.equal(values.length, expected.length);
  values.forEach((value, i) =>
    assert.ok(Math.abs(value - expected[i]!) <= tolerance, `${values.join()} is not ${expected.join()}`),
  );
}

test("gradients as computed by hand: linear layer, mean square", () => {
  // y = x W^T + b, loss = mean((y - t)^2): dL/dy = 2 (y - t) / n, dL/dW = dy^T x, dL/db = sum dy
  const x = tensor([
    [1, 2],
    [3, 4],
  ]);
  const weight = tensor([[0.5, -0.25]]).requiresGrad_();
  const bias = tensor([0.1]).requiresGrad_();
  const target = tensor([[1], [0]]);
  const loss = linear(x, weight, bias).sub(target).square().mean(); // y = [0.1, 0.6], y - t = [-0.9, 0.6]
  loss.backward();
  near(weight.grad!, [-0.9 * 1 + 0.6 * 3, -0.9 * 2 + 0.6 * 4]);
  near(bias.grad!, [-0.3]);
  assert.throws(() => loss.backward(), TorchError);
});

test("backward accumulates, and grad = null forgets", () => {
  const x = tensor([2]).requiresGrad_();
  x.square().sum().backward();
  x.square().sum().backward();
  near(x.grad!, [8]);
  x.grad = null;
  assert.equal(x.grad, null);
  x.grad = tensor([3]);
  near(x.grad, [3]);
});

test("backward with a gradient, and retainGraph", () => {
  const x = tensor([1, 2]).requiresGrad_();
  const y = x.mul(x);
  y.backward(tensor([1, 10]), { retainGraph: true });
  near(x.grad!, [2, 40]);
  y.backward(tensor([1, 10]));
  near(x.grad!, [4, 80]);
});

test("grad returns values, leaves .grad alone, and differentiates twice", () => {
  const x = tensor([3]).requiresGrad_();
  const [first] = grad(x.pow(3).sum(), [x], undefined, { createGraph: true });
  near(first!, [27]);
  near(grad(first!, [x])[0]!, [18]);
  assert.equal(x.grad, null);
});

test("grad weighs several outputs, and allowUnused gives null", () => {
  const x = tensor([1]).requiresGrad_();
  const y = tensor([1]).requiresGrad_();
  near(grad([x.mul(2), x.mul(3)], [x], [tensor([10]), tensor([1])])[0]!, [23]);
  assert.throws(() => grad(x.mul(2), [x, y]), TorchError);
  assert.equal(grad(x.mul(2), [x, y], undefined, { allowUnused: true })[1], null);
});

test("noGrad and enableGrad nest, and restore what was before, after an error too", () => {
  assert.equal(isGradEnabled(), true);
  const x = ones([1]).requiresGrad_();
  noGrad(() => {
    assert.equal(x.mul(2).requiresGrad, false);
    enableGrad(() => assert.equal(x.mul(2).requiresGrad, true));
    assert.equal(isGradEnabled(), false);
  });
  assert.throws(() =>
    noGrad(() => {
      throw new Error("inside");
    }),
  );
  assert.equal(isGradEnabled(), true);
  assert.equal(x.mul(2).detach().requiresGrad, false);
});

test("inference records nothing, keeps its result alone, and restores what was before", () => {
  const x = ones([2]).requiresGrad_();
  const before = liveTensors();
  const { result } = inference(() => {
    assert.equal(isGradEnabled(), false);
    return { result: x.add(1).mul(2) };
  });
  assert.deepEqual(result.toArray(), [4, 4]);
  assert.equal(result.requiresGrad, false);
  assert.equal(liveTensors(), before + 1);
  assert.equal(isGradEnabled(), true);
  assert.throws(() => inference(() => x.add(ones([3]))), TorchError);
  assert.throws(() => inference(async () => Promise.resolve(x)), /synchronous function for noGrad/);
  assert.equal(isGradEnabled(), true);
  result.dispose();
  assert.equal(liveTensors(), before);
});
