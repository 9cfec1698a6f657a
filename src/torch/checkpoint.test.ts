import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import {
  checkpoint,
  discardCheckpoints,
  Generator,
  isGradEnabled,
  liveTensors,
  noGrad,
  randn,
  relay,
  tidy,
  type Tensor,
} from "./index.js";

const generator = new Generator(0);
const make = (...shape: number[]): Tensor => randn(shape, { generator });

/** The gradients that `loss` leaves in the leaves. */
function gradients(leaves: readonly Tensor[], loss: () => Tensor, options: { retainGraph?: boolean } = {}): Tensor[] {
  tidy(() => loss().backward(undefined, options));
  return leaves.map((leaf) => {
    const { grad } = leaf;
    assert(grad !== null);
    leaf.grad = null;
    return grad;
  });
}

function assertSame(actual: readonly Tensor[], expected: readonly Tensor[]): void {
  actual.forEach((gradient, i) => {
    const scale = expected[i]!.abs().amax().item();
    const error = gradient.sub(expected[i]!).abs().amax().item();
    assert(error <= 1e-6 * scale, `gradient ${i}: ${error} of ${scale}`);
  });
}

afterEach(() => assertEmpty());

/** Nothing is left on the tape: a segment would be found by the next backward. */
function assertEmpty(): void {
  const before = liveTensors();
  discardCheckpoints();
  assert.equal(liveTensors(), before);
}

describe("checkpoint", () => {
  const [x, w, u] = [make(3, 4).requiresGrad_(), make(4, 4).requiresGrad_(), make(4, 4).requiresGrad_()];
  type Step = (x: Tensor) => Tensor;
  const first: Step = (x) => x.matmul(w).sin();
  const second: Step = (x) => x.matmul(u).sin().matmul(w);
  const plain = gradients([x, w, u], () => second(first(x)).add(first(x)).square().sum());

  it("has the gradients of the plain way: of inputs, of parameters inside, of what lies between", () => {
    const loss = (): Tensor => {
      const a = checkpoint(first, [x]);
      return checkpoint(second, [a.mul(1)])
        .add(a)
        .square()
        .sum();
    };
    assertSame(gradients([x, w, u], loss), plain);
  });

  it("may be nested, and may share what is relayed", () => {
    const loss = (): Tensor => {
      const shared = relay(first(x));
      const both = checkpoint((a) => checkpoint(second, [a]).add(checkpoint((b) => b.mul(1), [a])), [shared]);
      return both.square().sum();
    };
    assertSame(gradients([x, w, u], loss), plain);
  });

  it("leaves alone what another loss will come to, and may wait for it", () => {
    const a = checkpoint(first, [x]).square().sum();
    const b = checkpoint(second, [x]).square().sum();
    a.backward();
    const once = x.grad!.clone();
    b.backward();
    const both = x.grad!.clone();
    for (const leaf of [x, w, u]) leaf.grad = null;
    assertSame([once], [gradients([x, w], () => first(x).square().sum())[0]!]);
    const sum = gradients([x, w, u], () => first(x).square().sum().add(second(x).square().sum()))[0]!;
    assertSame([both], [sum]);
  });

  it("takes several backwards through a graph that is retained, and is gone after the last", () => {
    const inner = checkpoint(first, [x]);
    const loss = checkpoint((a) => checkpoint(second, [a]), [relay(inner)])
      .add(inner)
      .square()
      .sum();
    const once = (options: object): Tensor[] => gradients([x, w, u], () => loss, options);
    assertSame(once({ retainGraph: true }), plain);
    assertSame(once({ retainGraph: true }), plain);
    assertSame(once({}), plain);
    assert(inner.equal(first(x))); // its result stays the caller's
  });

  it("leaves nothing for the next backward after an error in the middle", () => {
    const failing: Step = (x) => {
      const inner = checkpoint(first, [x]);
      if (isGradEnabled()) throw new Error("in the middle");
      return inner;
    };
    const reached = checkpoint(second, [x]);
    const loss = checkpoint(failing, [x]).add(reached).sum();
    assert.throws(() => loss.backward(), /in the middle/);
    for (const leaf of [x, w, u]) leaf.grad = null;
    assertEmpty();
    const expected = gradients([x, w], () => first(x).square().sum());
    assertSame(
      gradients([x, w], () => checkpoint(first, [x]).square().sum()),
      expected,
    );
  });

  it("forgets what is inside of a segment and comes to nothing", () => {
    const loss = (): Tensor =>
      checkpoint(
        (a) => {
          checkpoint(second, [a]);
          return first(a);
        },
        [x],
      )
        .square()
        .sum();
    const expected = gradients([x, w], () => first(x).square().sum());
    assertSame(gradients([x, w], loss), expected);
  });

  it("just runs where no gradient is recorded", () => {
    const y = noGrad(() => checkpoint(first, [x]));
    assert.equal(y.requiresGrad, false);
    assert(y.equal(first(x)));
  });

  it("keeps nothing alive", () => {
    const step = (): void => {
      for (const gradient of gradients([x, w, u], () => checkpoint(second, [checkpoint(first, [x])]).sum())) {
        gradient.dispose();
      }
    };
    step();
    const before = liveTensors();
    step();
    assert.equal(liveTensors(), before);
    assert.throws(() => tidy(() => checkpoint(() => first(make(5, 5)), [x])));
    tidy(() => void checkpoint(first, [x]));
    discardCheckpoints();
    assert.equal(liveTensors(), before);
  });
});
