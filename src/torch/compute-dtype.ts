/**
 * The dtype to compute in with weights that are held in half precision.
 *
 * A CPU without instructions for such a format computes in it many times slower than in float32 (docs/benchmarks.md),
 * and less exactly: there a layer converts its weights at each call.
 */
import { thisCpu, type Cpu } from "./cpu.js";
import type { Device, DType } from "./dtypes.js";
import { torchVersion } from "./runtime.js";

/** The instruction sets with which oneDNN (libtorch's convolutions and matrix products) computes in these formats. */
const arithmetic: Partial<Record<DType, readonly string[]>> = {
  bfloat16: ["avx512_bf16", "amx_bf16"],
  float16: ["avx512_fp16", "amx_fp16"],
};

/** float32 for half precision on a CPU that is slow in it; else the dtype itself. */
export function computeDtype(dtype: DType, device: Device, cpu: Cpu = thisCpu(), version = torchVersion()): DType {
  const sets = arithmetic[dtype];
  if (device !== "cpu" || sets === undefined) return dtype;
  // libtorch 1.13 has no convolution in float16 on CPUs.
  if (dtype === "float16" && version.startsWith("1.")) return "float32";
  return sets.some((set) => cpu.flags.has(set)) ? dtype : "float32";
}
