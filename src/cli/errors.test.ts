import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { full, TorchError } from "../torch/index.js";
import { exitCodeOf, report } from "./errors.js";

/** What is told on stderr. */
function told(error: unknown): string {
  const write = mock.method(process.stderr, "write", () => true);
  try {
    report(error);
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
