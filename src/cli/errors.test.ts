import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { InputError } from "../base/errors.js";
import { full, TorchError } from "../torch/index.js";
import { exitCodeOf, report } from "./errors.js";

/** What is told on stderr. */
function told(error: unknown, options?: { debug: boolean }): string {
  const write = mock.method(process.stderr, "write", () => true);
  try {
    report(error, options);
    return write.mock.calls.map(({ arguments: [text] }) => String(text)).join("");
  } finally {
    write.mock.restore();
  }
}

function thrownBy(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

test("too little memory is told with the settings that need less, not as a fault of ours", () => {
  const onCard =
    "aten::conv2d: CUDA out of memory. Tried to allocate 2.00 GiB.\nReceived input float16[8, 4, 64, 64] on cuda:0";
  for (const error of [thrownBy(() => full([2 ** 46], 0)), new TorchError(onCard, "aten::conv2d")]) {
    assert.equal(exitCodeOf(error), 1);
    const text = told(error);
    assert.match(text, /^b2: aten::\S+: .*out of memory.*\n.*sample\.batchSize.*train\.microBatch/);
    assert.doesNotMatch(text, /errors\.test|Received/);
  }
  assert.match(told(new TorchError("Expected a Tensor")), /^b2: TorchError: Expected a Tensor\n +at /);
});

test("debug prints the stack of bad input and all that caused it, and keeps the settings that need less memory", () => {
  const cause = new RangeError("the innermost");
  const error = new InputError("Expected less", { cause: new Error("between", { cause }) });
  assert.equal(told(error), "b2: Expected less\n");
  const text = told(error, { debug: true });
  assert.match(text, /^b2: InputError: Expected less\n +at .*errors\.test/);
  assert.match(text, /\ncaused by Error: between\n +at [^]*\ncaused by RangeError: the innermost\n +at /);
  assert.equal(exitCodeOf(error), 2);
  const memory = told(new TorchError("aten::conv2d: CUDA out of memory."), { debug: true });
  assert.match(memory, /^b2: TorchError: aten::conv2d: .*\n +at /);
  assert.match(memory, /\n.*sample\.batchSize.*train\.microBatch/);
});

test("a fault of ours is told with its stack and code 1", () => {
  const error = new TypeError("x is undefined");
  assert.equal(exitCodeOf(error), 1);
  assert.match(told(error), /^b2: TypeError: x is undefined\n +at /);
});
