import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { explicitAttention } from "./attention.js";
import { Generator, randn, scaledDotProductAttention, softmax, tensor, type Tensor } from "./index.js";

const generator = new Generator(0);
const make = (...shape: number[]): Tensor => randn(shape, { generator });

function assertClose(a: Tensor, b: Tensor): void {
  assert.deepEqual(a.shape, b.shape);
  const difference = a.sub(b).abs().amax().item();
  assert.ok(difference < 2e-6, `differs by ${difference}`);
}

describe("attention", () => {
  const q = make(2, 3, 7, 4).requiresGrad_();
  const k = make(2, 3, 5, 4).requiresGrad_();
  const v = make(2, 3, 5, 4).requiresGrad_();
  const reference = softmax(q.matmul(k.transpose(-2, -1)).mul(0.5), -1).matmul(v);

  it("is softmax(q k^T / sqrt(D)) v", () => assertClose(scaledDotProductAttention(q, k, v), reference));

  it("is the same in blocks of rows, of any size", () => {
    for (const maxScores of [1, 60, 100, 10_000]) assertClose(explicitAttention(q, k, v, {}, maxScores), reference);
  });

  it("masks: causal, added, and bool, whole and in blocks", () => {
    const keys = make(2, 3, 7, 4);
    const values = make(2, 3, 7, 4);
    const added = make(7, 7);
    const kept = tensor([[true, true, false, true, true, false, true]], { dtype: "bool" });
    for (const options of [{ causal: true }, { mask: added }, { mask: kept }, { scale: 0.3 }]) {
      const built = scaledDotProductAttention(q, keys, values, options);
      assertClose(explicitAttention(q, keys, values, options, 100), built);
    }
  });
});
