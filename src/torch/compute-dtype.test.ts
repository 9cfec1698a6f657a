import assert from "node:assert/strict";
import { test } from "node:test";
import { computeDtype } from "./compute-dtype.js";
import { parseCpuInfo, thisCpu, type Cpu } from "./cpu.js";

const cpu = (flags: string): Cpu => parseCpuInfo(`vendor_id\t: GenuineIntel\nflags\t\t: fpu ${flags}\n`);

test("half precision is computed in where the CPU has instructions for it", () => {
  const old = cpu("avx2 fma avx512f avx512bw avx512vl avx512dq");
  const recent = cpu("avx2 avx512f avx512_bf16 avx512_fp16");
  assert.equal(computeDtype("bfloat16", "cpu", old, "2.13.0"), "float32");
  assert.equal(computeDtype("bfloat16", "cpu", recent, "2.13.0"), "bfloat16");
  assert.equal(computeDtype("bfloat16", "cpu", cpu("amx_bf16"), "1.13.1"), "bfloat16");
  assert.equal(computeDtype("float16", "cpu", cpu("amx_bf16"), "2.13.0"), "float32");
  assert.equal(computeDtype("float16", "cpu", recent, "2.13.0"), "float16");
  assert.equal(computeDtype("float16", "cpu", recent, "1.13.1"), "float32");
  assert.equal(computeDtype("bfloat16", "cpu", parseCpuInfo(""), "2.13.0"), "float32");
});

test("GPUs compute in the dtype that they hold, and so does anything in float32", () => {
  for (const dtype of ["float32", "bfloat16", "float16"] as const) {
    assert.equal(computeDtype(dtype, "cuda:1", parseCpuInfo(""), "2.13.0"), dtype);
    assert.equal(computeDtype(dtype, "mps", parseCpuInfo(""), "2.13.0"), dtype);
  }
  for (const dtype of ["float32", "float64", "int64"] as const) {
    assert.equal(computeDtype(dtype, "cpu", parseCpuInfo(""), "2.13.0"), dtype);
  }
});

test(
  "this CPU is known",
  { skip: process.platform === "linux" && process.arch === "x64" ? false : "not Linux on x64" },
  () => {
    assert.ok(thisCpu().flags.has("sse2"));
  },
);
