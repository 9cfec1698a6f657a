import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { inspect } from "node:util";
import { arange, liveTensors, ones, op, tensor, Tensor, zeros, type DType } from "./index.js";

/** What console.log prints. */
const printed = (value: unknown): string => inspect(value);
const lines = (...text: string[]): string => text.join("\n");

describe("a printed tensor", () => {
  it("has its dtype, shape, device and values, of four digits in aligned columns", () => {
    assert.equal(
      printed(tensor([0.12345, -1.5, 100, 0], { shape: [2, 2] })),
      lines("Tensor(float32[2, 2], cpu)", "[[  0.1235,  -1.5000],", " [100.0000,   0.0000]]"),
    );
    assert.equal(printed(tensor(3.14159)), "Tensor(float32[], cpu) 3.1416");
    assert.equal(printed(ones([3]).requiresGrad_()), "Tensor(float32[3], cpu, requiresGrad) [1., 1., 1.]");
    assert.equal(
      printed(arange(0, 4).reshape([2, 1, 2])),
      lines("Tensor(float32[2, 1, 2], cpu)", "[[[0., 1.]],", "", " [[2., 3.]]]"),
    );
  });

  it("is short in a string", () => {
    assert.equal(String(ones([2, 2])), "Tensor(float32[2, 2])");
    assert.equal(`${ones([2, 2]).toString()}`, "Tensor(float32[2, 2])");
  });

  it("writes exponents where four digits would say too little", () => {
    assert.equal(printed(tensor([1e-8, 1])), "Tensor(float32[2], cpu) [1.0000e-08, 1.0000e+00]");
    assert.equal(printed(tensor([2e9])), "Tensor(float32[1], cpu) [2.0000e+09]");
  });

  it("shows what is no number", () => {
    assert.equal(
      printed(tensor([NaN, Infinity, -Infinity, 0.5])),
      "Tensor(float32[4], cpu) [   nan,    inf,   -inf, 0.5000]",
    );
  });

  it("may be of any dtype", () => {
    const ofDtype: Record<DType, string> = {
      float32: "[-1., 2.]",
      float64: "[-1., 2.]",
      float16: "[-1., 2.]",
      bfloat16: "[-1., 2.]",
      int64: "[-1, 2]",
      int32: "[-1, 2]",
      int16: "[-1, 2]",
      int8: "[-1, 2]",
      uint8: "[255, 2]",
      bool: "[true, true]",
    };
    for (const [dtype, text] of Object.entries(ofDtype)) {
      const x = tensor([-1, 2], { dtype: "int64" }).to({ dtype: dtype as DType });
      assert.equal(printed(x).replace(/ +(?=\d|true)/g, " "), `Tensor(${dtype}[2], cpu) ${text}`);
    }
    assert.equal(printed(tensor(new BigInt64Array([2n ** 53n + 1n]))), "Tensor(int64[1], cpu) [9007199254740993]");
    assert.equal(printed(tensor([true, false], { dtype: "bool" })), "Tensor(bool[2], cpu) [ true, false]");
    const complex = op("aten::complex", ["Tensor", "Tensor"], "Tensor")(ones([2]), ones([2]));
    assert.equal(printed(complex), "Tensor(ScalarType 9[2], cpu)");
  });

  it("is summarised beyond 1,000 elements", () => {
    assert.equal(
      printed(arange(0, 1001)),
      "Tensor(float32[1001], cpu) [   0.,    1.,    2.,  ...,  998.,  999., 1000.]",
    );
    assert.equal(
      printed(arange(0, 10_000).reshape([100, 100]).to({ dtype: "int32" })),
      lines(
        "Tensor(int32[100, 100], cpu)",
        "[[   0,    1,    2,  ...,   97,   98,   99],",
        " [ 100,  101,  102,  ...,  197,  198,  199],",
        " [ 200,  201,  202,  ...,  297,  298,  299],",
        " ...,",
        " [9700, 9701, 9702,  ..., 9797, 9798, 9799],",
        " [9800, 9801, 9802,  ..., 9897, 9898, 9899],",
        " [9900, 9901, 9902,  ..., 9997, 9998, 9999]]",
      ),
    );
    assert.match(printed(arange(0, 100)), / 99\.\]$/);
    assert.doesNotMatch(printed(arange(0, 100)), /\.\.\.,/);
  });

  it("never takes more than a page, nor more memory than what it shows", () => {
    const shapes = [[1000], [200, 5], [7, 7, 7], [2, 3, 64, 64], [9, 9, 9, 9, 9], Array<number>(40).fill(2)];
    for (const shape of [...shapes, [2 ** 30, 2 ** 30], [2, 2 ** 40], [2 ** 40, 2]]) {
      const text = printed(ones([1]).expand(shape));
      assert.ok(text.startsWith(`Tensor(float32[${shape.join(", ")}], cpu)`), text);
      assert.ok(text.split("\n").length <= 49, `${text.split("\n").length} lines for ${shape.join()}`);
    }
    const several = printed({ first: zeros([30, 30]), second: zeros([30, 30]) });
    assert.ok(several.split("\n").length <= 20, several);
  });

  it("stands inside of objects, indented", () => {
    assert.equal(
      printed({ name: "x", weight: ones([2, 2]), deep: [zeros([1])] }),
      lines(
        "{",
        "  name: 'x',",
        "  weight: Tensor(float32[2, 2], cpu)",
        "  [[1., 1.],",
        "   [1., 1.]],",
        "  deep: [ Tensor(float32[1], cpu) [0.] ]",
        "}",
      ),
    );
    assert.match(inspect({ a: { b: { c: { d: ones([2]) } } } }), /\[Object\]/);
    assert.match(inspect({ a: { b: { c: { d: ones([2]) } } } }, { depth: null }), /\[1\., 1\.\]/);
  });

  it("says that it is empty or disposed of, and never throws", () => {
    assert.equal(printed(zeros([0, 3])), "Tensor(float32[0, 3], cpu) []");
    const gone = ones([2]);
    gone.dispose();
    assert.equal(printed(gone), "Tensor(disposed)");
    assert.equal(printed({ gone }), "{ gone: Tensor(disposed) }");
    assert.equal(printed(Object.create(Tensor.prototype)), "Tensor");
  });

  it("leaves nothing behind, and autograd alone", () => {
    const x = ones([50, 50]).requiresGrad_();
    const before = liveTensors();
    printed(x);
    assert.equal(liveTensors(), before);
    x.square().sum().backward();
    assert.deepEqual(x.grad!.slice(0, 0, 1).slice(1, 0, 1).toArray(), [2]);
  });
});
