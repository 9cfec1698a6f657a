/** Weights: what differs between a checkpoint and a model is named, all of it at once. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import { SafetensorsError, saveSafetensors } from "../safetensors/index.js";
import { Generator, ones, tensor, type DType, type Tensor } from "../torch/index.js";
import { Conv2d, Linear, Module, onesInit, Weights } from "./index.js";

const folder = temporaryFolder();

class Net extends Module {
  readonly conv: Conv2d;
  readonly out: Linear;

  constructor(weights: Weights) {
    super(weights);
    this.conv = new Conv2d(weights.at("conv"), 2, 3);
    this.out = new Linear(weights.at("head.out"), 3, 4);
  }
}

function checkpoint(name: string, changes: Record<string, Tensor | undefined> = {}): string {
  const file = join(folder, `${name}.safetensors`);
  const all = new Map<string, Tensor | undefined>(new Net(Weights.random(new Generator(0))).parameters());
  for (const [key, value] of Object.entries(changes)) all.set(key, value);
  saveSafetensors(file, new Map([...all].filter((entry): entry is [string, Tensor] => entry[1] !== undefined)));
  return file;
}

function load(...files: string[]): Net {
  const weights = Weights.fromSafetensors(files);
  const net = new Net(weights);
  weights.finish();
  return net;
}

describe("Weights", () => {
  test("give a model its checkpoint, kernels channels-last", () => {
    const net = load(checkpoint("good"));
    assert.deepEqual([...net.parameters().keys()], ["conv.weight", "conv.bias", "head.out.weight", "head.out.bias"]);
    assert.deepEqual([...net.modules().keys()], ["", "conv", "head.out"]);
    assert.deepEqual(net.conv.weight.strides, [18, 1, 6, 2]);
    const fresh = new Net(Weights.random(new Generator(0)));
    for (const [key, value] of net.parameters()) assert(value.equal(fresh.parameters().get(key)!), key);
  });

  test("name every key that differs in one error", () => {
    const file = checkpoint("bad", {
      "conv.weight": ones([3, 2, 1, 1]),
      "conv.bias": undefined,
      "head.out.weight": tensor([
        [1, NaN, 1],
        [1, 1, 1],
        [1, 1, 1],
        [1, 1, 1],
      ]),
      "head.out.bias": ones([4], { dtype: "int64" }),
      extra: ones([1]),
    });
    assert.throws(
      () => load(file),
      (error) => {
        assert(error instanceof SafetensorsError);
        assert.match(error.message, /conv\.weight: Expected \[3, 2, 3, 3\] but received \[3, 2, 1, 1\]/);
        assert.match(error.message, /conv\.bias: Expected \[3\] but received nothing/);
        assert.match(error.message, /head\.out\.weight: Expected finite numbers/);
        assert.match(error.message, /head\.out\.bias: Expected floating point for dtype but received I64/);
        assert.match(error.message, /extra: Expected no such key/);
        assert(error.message.startsWith(file));
        return true;
      },
    );
  });

  test("may come in shards, but no key in two", () => {
    const file = checkpoint("twice");
    assert.throws(() => load(file, checkpoint("twice2")), /Expected each key in one file/);
    const half = checkpoint("half", { "conv.weight": undefined, "conv.bias": undefined });
    const rest = join(folder, "rest.safetensors");
    saveSafetensors(rest, { "conv.weight": ones([3, 2, 3, 3]), "conv.bias": ones([3]) });
    assert.equal(load(half, rest).parameterCount(), 3 * 2 * 9 + 3 + 12 + 4);
  });

  test("have buffers, which are saved as parameters are, and never learn", () => {
    class Shifted extends Net {
      readonly shift: Tensor;

      constructor(weights: Weights) {
        super(weights);
        this.shift = weights.buffer("shift", [4], onesInit);
      }
    }
    const net = new Shifted(Weights.random(new Generator(0))).requiresGrad_();
    const learning = [...net.parameters()].filter(([, { requiresGrad }]) => requiresGrad).map(([key]) => key);
    assert.deepEqual([...net.parameters().keys()], [...learning, "shift"]);
    const file = join(folder, "shifted.safetensors");
    saveSafetensors(file, new Map([...net.parameters()].map(([key, value]) => [key, value.detach().mul(2)])));
    assert.deepEqual(new Shifted(Weights.fromSafetensors(file)).shift.toArray(), [2, 2, 2, 2]);
  });

  test("are drawn the same from one seed in every dtype, up to its rounding", () => {
    const random = (dtype: DType) => new Net(Weights.random(new Generator(0), { dtype })).parameters();
    const whole = random("float32");
    for (const dtype of ["bfloat16", "float16"] as const) {
      for (const [key, parameter] of random(dtype)) {
        assert.equal(parameter.dtype, dtype);
        assert.deepEqual(parameter.toArray(), whole.get(key)!.to({ dtype }).toArray(), key);
      }
    }
  });
});
