/**
 * Which kernels OpenBLAS, the matrix products of Debian's libtorch, takes. It goes by the processor's model number, and
 * an Intel that is younger than itself it takes for a Pentium 4 ("Prescott"): matrix products are then five times
 * slower (docs/benchmarks.md). What the processor says it can do is the better guide.
 */
import { type Cpu, thisCpu } from "./cpu.js";

/** AVX-512 as OpenBLAS' SkylakeX kernels use it; AVX2 as its Haswell kernels do. */
const cores = [
  ["SkylakeX", ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"]],
  ["Haswell", ["avx2", "fma"]],
] as const;

/** The name of the best kernels for an Intel; undefined where OpenBLAS' own guess is as good. */
export function openBlasCore({ vendor, flags }: Cpu): string | undefined {
  if (vendor !== "GenuineIntel") return undefined;
  return cores.find(([, needed]) => needed.every((flag) => flags.has(flag)))?.[0];
}

/** Tells OpenBLAS, which reads the environment as it loads, unless somebody has told it already. */
export function chooseOpenBlasCore(): void {
  if (process.env["OPENBLAS_CORETYPE"] !== undefined || process.platform !== "linux" || process.arch !== "x64") return;
  const core = openBlasCore(thisCpu());
  if (core !== undefined) process.env["OPENBLAS_CORETYPE"] = core;
}
