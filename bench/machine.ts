/** Measures the machine: matmul peak, clocks and memory of this process. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { inference, matmul, randn, tidy, type DType } from "../src/torch/index.js";

/** Wall time, or the CPU time of this process, which allows comparisons on a busy machine. */
export type Clock = "wall" | "cpu";

/** Seconds by a clock, from an arbitrary origin. */
export function secondsBy(clock: Clock): number {
  if (clock === "wall") return performance.now() / 1000;
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** Parses --clock. @throws Error for an unknown clock */
export function parseClock(name: string): Clock {
  if (name === "wall" || name === "cpu") return name;
  throw new Error(`Expected --clock wall or cpu but received ${name}`);
}

export interface PeakOptions {
  readonly dtype?: DType;
  /** Rows and columns. */
  readonly n?: number;
  readonly clock?: Clock;
}

/** GFLOP/s of a square matrix product in this process, the best of twenty. */
export function matmulPeak({ dtype = "float32", n = 2048, clock = "wall" }: PeakOptions = {}): number {
  return inference(() => {
    const [a, b] = [randn([n, n]).to({ dtype }), randn([n, n]).to({ dtype })];
    let best = Infinity;
    for (let i = 0; i < 20; i++) {
      const start = secondsBy(clock);
      tidy(() => matmul(a, b));
      best = Math.min(best, secondsBy(clock) - start);
    }
    return (2 * n ** 3) / (best * 1e9);
  });
}

/** Sets the high-water mark of memory to the current resident size, if the system supports it (Linux). */
export function resetPeakMemory(): void {
  if (existsSync("/proc/self/clear_refs")) writeFileSync("/proc/self/clear_refs", "5");
}

/** Peak of resident bytes since the start or the last reset, mapped files included. */
export function peakMemory(): number {
  if (!existsSync("/proc/self/status")) return process.resourceUsage().maxRSS * 1024;
  const [, kilobytes] = /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
  return Number(kilobytes) * 1024;
}
