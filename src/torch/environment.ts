/**
 * The environment that libtorch is loaded into. Importing this library loads nothing and sets nothing; the first use of
 * an operator, a generator or anything else native loads the addon and libtorch with it (native.ts).
 *
 * Loading reads:
 * - `LIBTORCH`: the folder of the libtorch to run on. Without it, the one that was installed last.
 * - `B2_ADDON=debug`: takes the addon's debug build (`node scripts/install.mjs --debug` makes it).
 * - `B2_THREADS`, else `OMP_NUM_THREADS`: how many threads an operator may use. Without them, one for each core.
 *
 * Loading sets, for this process and its children, what nobody has set before, since these libraries read it as they
 * load:
 * - `GOMP_SPINCOUNT=10000`, unless `OMP_WAIT_POLICY` is set. By default OpenMP's threads spin for milliseconds while
 *   they wait for each other, and once anything else wants a core they spin away the time of the thread they wait for:
 *   12 times slower (docs/log.md).
 * - `OPENBLAS_THREAD_TIMEOUT=14`: OpenBLAS' threads look 2^14 cycles long for more work before they sleep, as OpenMP's,
 *   and not 2^26.
 * - `OPENBLAS_CORETYPE`, on Linux on x64: see openBlasCore.
 * - `NVIDIA_TF32_OVERRIDE=0`. By default NVIDIA's convolutions of float32 keep 10 of its 23 bits (TF32), and log-probs
 *   that agree from batch to batch need them all.
 */
import { availableParallelism } from "node:os";
import { thisCpu, type Cpu } from "./cpu.js";

export type AddonKind = "release" | "debug";

export interface AddonChoice {
  /** The folder of the libtorch that was asked for; undefined for the one that was installed last. */
  readonly libtorch: string | undefined;
  readonly kind: AddonKind;
}

/** Which build of the addon the environment asks for. An empty variable is one that is not set. */
export function chosenAddon(environment: NodeJS.ProcessEnv = process.env): AddonChoice {
  return {
    libtorch: environment["LIBTORCH"] || undefined,
    kind: environment["B2_ADDON"] === "debug" ? "debug" : "release",
  };
}

/** How many threads an operator may use. Always a number: on some machines OpenMP itself comes up with one thread. */
export function chosenThreads(environment: NodeJS.ProcessEnv = process.env): number {
  const threads = Number(environment["B2_THREADS"] ?? environment["OMP_NUM_THREADS"] ?? availableParallelism());
  return Number.isInteger(threads) && threads > 0 ? threads : availableParallelism();
}

/** Sets what libtorch's libraries read as they load, where nobody has set it. */
export function prepareEnvironment(environment: NodeJS.ProcessEnv = process.env): void {
  if (environment["OMP_WAIT_POLICY"] === undefined) environment["GOMP_SPINCOUNT"] ??= "10000";
  environment["OPENBLAS_THREAD_TIMEOUT"] ??= "14";
  if (environment["OPENBLAS_CORETYPE"] === undefined && process.platform === "linux" && process.arch === "x64") {
    const core = openBlasCore(thisCpu());
    if (core !== undefined) environment["OPENBLAS_CORETYPE"] = core;
  }
  environment["NVIDIA_TF32_OVERRIDE"] ??= "0";
}

/** AVX-512 as OpenBLAS' SkylakeX kernels use it; AVX2 as its Haswell kernels do. */
const cores = [
  ["SkylakeX", ["avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"]],
  ["Haswell", ["avx2", "fma"]],
] as const;

/**
 * The name of OpenBLAS' best kernels for an Intel; undefined where its own guess is as good.
 *
 * OpenBLAS, the matrix products of Debian's libtorch, goes by the CPU's model number and takes an Intel that is younger
 * than itself for a Pentium 4 ("Prescott"): matrix products are then five times slower (docs/benchmarks.md). What the
 * CPU says it can do is the better guide.
 */
export function openBlasCore({ vendor, flags }: Cpu): string | undefined {
  if (vendor !== "GenuineIntel") return undefined;
  return cores.find(([, needed]) => needed.every((flag) => flags.has(flag)))?.[0];
}
