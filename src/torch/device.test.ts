/** What of accelerators can be tested without one; test/device.test.ts has the rest. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { deviceCount, deviceMemory, resetPeakDeviceMemory, synchronize, TorchError, type Device } from "./index.js";

test("the processor needs no waiting and has no device's memory", () => {
  synchronize("cpu");
  resetPeakDeviceMemory("cpu");
  assert.equal(deviceMemory("cpu"), undefined);
});

test("a device that is none, or is not there, is an error and not a crash", () => {
  for (const name of ["gpu", "cuda:x", "", ...(deviceCount("cuda") === 0 ? ["cuda", "cuda:0"] : [])]) {
    for (const use of [synchronize, deviceMemory, resetPeakDeviceMemory]) {
      assert.throws(() => use(name as Device), TorchError, `${use.name}("${name}")`);
    }
  }
});
