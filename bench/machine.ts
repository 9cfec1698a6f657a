/** What the machine can do, and what this process has taken of it. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { matmul, noGrad, randn, tidy, type DType } from "../src/torch/index.js";

const wall = (): number => performance.now() / 1000;

/**
 * GFLOP/s of a square matrix product, the best of several.
 *
 * @param clock seconds
 */
export function matmulPeak({ dtype = "float32", n = 2048, clock = wall }: PeakOptions = {}): number {
  return tidy(() =>
    noGrad(() => {
      const [a, b] = [randn([n, n]).to({ dtype }), randn([n, n]).to({ dtype })];
      let best = Infinity;
      for (let i = 0; i < 20; i++) {
        const start = clock();
        tidy(() => matmul(a, b));
        best = Math.min(best, clock() - start);
      }
      return (2 * n ** 3) / (best * 1e9);
    }),
  );
}

export interface PeakOptions {
  readonly dtype?: DType;
  readonly n?: number;
  readonly clock?: () => number;
}

/** Sets the high-water mark of memory to what is resident now, where the system can (Linux). */
export function resetPeakMemory(): void {
  if (existsSync("/proc/self/clear_refs")) writeFileSync("/proc/self/clear_refs", "5");
}

/** Most bytes that were resident since the start or the last reset, mapped files included. */
export function peakMemory(): number {
  if (!existsSync("/proc/self/status")) return process.resourceUsage().maxRSS * 1024;
  const [, kilobytes] = /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
  return Number(kilobytes) * 1024;
}
