import assert from "node:assert/strict";
import { availableParallelism } from "node:os";
import { test } from "node:test";
import { parseCpuInfo, type Cpu } from "./cpu.js";
import { chosenAddon, chosenThreads, openBlasCore, prepareEnvironment } from "./environment.js";

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

test("the environment chooses the build and the threads", () => {
  assert.deepEqual(chosenAddon({}), { libtorch: undefined, kind: "release" });
  assert.deepEqual(chosenAddon({ LIBTORCH: "", B2_ADDON: "" }), { libtorch: undefined, kind: "release" });
  assert.deepEqual(chosenAddon({ LIBTORCH: "/opt/x", B2_ADDON: "debug" }), { libtorch: "/opt/x", kind: "debug" });
  assert.equal(chosenThreads({ B2_THREADS: "3", OMP_NUM_THREADS: "5" }), 3);
  assert.equal(chosenThreads({ OMP_NUM_THREADS: "5" }), 5);
  for (const B2_THREADS of ["many", "0", "1.5"]) assert.equal(chosenThreads({ B2_THREADS }), availableParallelism());
});

test("what somebody has set stays as it is", () => {
  const own = {
    GOMP_SPINCOUNT: "7",
    OPENBLAS_CORETYPE: "Zen",
    OPENBLAS_THREAD_TIMEOUT: "20",
    NVIDIA_TF32_OVERRIDE: "1",
  };
  const environment = { ...own };
  prepareEnvironment(environment);
  assert.deepEqual(environment, own);
  const waiting: NodeJS.ProcessEnv = { OMP_WAIT_POLICY: "passive" };
  prepareEnvironment(waiting);
  assert.equal(waiting["GOMP_SPINCOUNT"], undefined);
});
