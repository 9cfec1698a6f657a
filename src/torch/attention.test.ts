import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { explicitAttention } from "./attention.js";
import {
  Generator,
  liveTensors,
  peakNativeBytes,
  randn,
  scaledDotProductAttention,
  softmax,
  tensor,
  tidy,
  type Tensor,
} from "./index.js";

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

describe("attention in blocks", () => {
  const inputs = (...shape: number[]) =>
    [0, 1, 2].map(() => make(...shape).requiresGrad_()) as [q: Tensor, k: Tensor, v: Tensor];

  function gradients(leaves: readonly Tensor[], loss: () => Tensor): Tensor[] {
    tidy(() => loss().backward());
    return leaves.map((leaf) => {
      const { grad } = leaf;
      assert.ok(grad !== null);
      leaf.grad = null;
      return grad;
    });
  }

  /** Relative to the largest number. */
  function assertSame(actual: readonly Tensor[], expected: readonly Tensor[]): void {
    actual.forEach((gradient, i) => {
      const scale = expected[i]!.abs().amax().item();
      const error = gradient.sub(expected[i]!).abs().amax().item();
      assert.ok(error <= 2e-6 * scale, `gradient ${i}: ${error} of ${scale}`);
    });
  }

  it("has the gradients of the plain way, with masks too, of any shape", () => {
    const shapes = [
      [2, 2, 40, 8],
      [3, 40, 8],
      [40, 8],
    ];
    const mask = make(40, 40);
    const kept = tensor([Array.from({ length: 40 }, (_, i) => i % 3 > 0)], { dtype: "bool" });
    for (const options of [{}, { causal: true }, { mask }, { mask: kept }, { mask, causal: true, scale: 0.7 }]) {
      for (const shape of shapes) {
        const leaves = inputs(...shape);
        const weight = make(...shape); // so that no gradient is nothing
        const loss = (maxScores: number) => () =>
          explicitAttention(...leaves, options, maxScores)
            .mul(weight)
            .sum();
        const plain = gradients(leaves, loss(1e9));
        for (const maxScores of [1, 1000]) assertSame(gradients(leaves, loss(maxScores)), plain);
      }
    }
  });

  it("has them where heads go one by one, of transposed tokens, and of a longer text", () => {
    const [q, k, v] = [make(1, 760, 2, 4), make(1, 700, 2, 4), make(1, 700, 2, 4)].map((x) => x.requiresGrad_());
    const loss = (maxScores: number) => () =>
      explicitAttention(...([q!, k!, v!].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor]), {}, maxScores)
        .square()
        .sum();
    assertSame(gradients([q!, k!, v!], loss(100_000)), gradients([q!, k!, v!], loss(1e9)));
  });

  it("is a link of a chain: shortcuts around it, several after each other, what comes before shared", () => {
    const [x, w, u] = inputs(2, 40, 8);
    const matrix = make(8, 8).requiresGrad_();
    const layer = (h: Tensor, maxScores: number): Tensor => {
      const q = h.matmul(matrix).mul(0.2);
      return explicitAttention(q, h.mul(w), q.add(u), {}, maxScores).add(h);
    };
    const loss = (maxScores: number) => () =>
      layer(layer(layer(x.sin(), maxScores), maxScores), maxScores)
        .square()
        .mean();
    const leaves = [x, w, u, matrix];
    assertSame(gradients(leaves, loss(500)), gradients(leaves, loss(1e9)));
  });

  it("needs memory that does not grow with the square of the tokens", () => {
    const bytes = (tokens: number): number => {
      const leaves = inputs(1, 2, tokens, 8);
      let before = 0;
      const peak = peakNativeBytes(() => {
        before = leaves[0].numel * 3 * 4;
        for (const gradient of gradients(leaves, () =>
          explicitAttention(...leaves)
            .square()
            .sum(),
        ))
          gradient.dispose();
      });
      for (const tensor of leaves) tensor.dispose();
      return peak - before;
    };
    bytes(512);
    const [small, large] = [bytes(2048), bytes(4096)];
    // The scores of 4,096 tokens are 134 MB; 50 MB more than for half of them would be a square's beginning.
    assert.ok(large < 2.2 * small && large < 80e6, `${small} and ${large} bytes`);
  });

  it("records nothing where no gradient is wanted", () => {
    const [q, k, v] = [0, 1, 2].map(() => make(1, 1, 40, 8)) as [Tensor, Tensor, Tensor];
    const before = liveTensors();
    const attended = explicitAttention(q, k, v, {}, 400);
    assert.equal(attended.requiresGrad, false);
    attended.dispose();
    assert.equal(liveTensors(), before);
  });

  it("refuses what does not belong together", () => {
    const [q, k, v] = [make(2, 40, 8), make(2, 40, 8), make(2, 41, 8)];
    assert.throws(() => explicitAttention(q, k, v, {}, 1), /Expected \[\.\.\., N, D\], .* for attention but received/);
  });
});
