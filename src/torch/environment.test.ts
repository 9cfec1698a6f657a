import assert from "node:assert/strict";
import { test } from "node:test";
import { type Cpu, parseCpuInfo } from "./cpu.js";
import { openBlasCore } from "./environment.js";

const cpu = (vendor: string, flags: string): Cpu =>
  parseCpuInfo(`processor\t: 0\nvendor_id\t: ${vendor}\nflags\t\t: fpu sse2 ${flags}\nbugs\t\t: none\n`);
const avx512 = "avx512f avx512dq avx512cd avx512bw avx512vl";

test("OpenBLAS gets the kernels that an Intel's flags allow, and its own guess elsewhere", () => {
  assert.equal(openBlasCore(cpu("GenuineIntel", `avx2 fma ${avx512}`)), "SkylakeX");
  assert.equal(openBlasCore(cpu("GenuineIntel", "avx2 fma avx512f")), "Haswell");
  assert.equal(openBlasCore(cpu("GenuineIntel", "avx")), undefined);
  assert.equal(openBlasCore(cpu("AuthenticAMD", `avx2 fma ${avx512}`)), undefined);
  assert.equal(openBlasCore(parseCpuInfo("")), undefined);
});
