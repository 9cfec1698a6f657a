/** Measures the machine: matmul peak, clocks and memory of this process. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import {
  deviceMemory,
  inference,
  matmul,
  randn,
  resetPeakDeviceMemory,
  synchronize,
  tidy,
  type Device,
  type DType,
} from "../src/torch/index.js";

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
  readonly device?: Device;
  /** Rows and columns. */
  readonly n?: number;
  readonly clock?: Clock;
}

/** GFLOP/s of a square matrix product in this process, the best of twenty. */
export function matmulPeak(options: PeakOptions = {}): number {
  const { dtype = "float32", device = "cpu", n = 2048, clock = "wall" } = options;
  return inference(() => {
    const [a, b] = [randn([n, n], { device }).to({ dtype }), randn([n, n], { device }).to({ dtype })];
    let best = Infinity;
    synchronize(device);
    for (let i = 0; i < 20; i++) {
      const start = secondsBy(clock);
      tidy(() => matmul(a, b));
      synchronize(device);
      best = Math.min(best, secondsBy(clock) - start);
    }
    return (2 * n ** 3) / (best * 1e9);
  });
}

/** Sets the high-water mark of a device's memory to what is in use; of main memory, where the system can (Linux). */
export function resetPeakMemory(device: Device = "cpu"): void {
  if (device !== "cpu") resetPeakDeviceMemory(device);
  else if (existsSync("/proc/self/clear_refs")) writeFileSync("/proc/self/clear_refs", "5");
}

/** Peak since the start or the last reset: of an accelerator's tensors, or of resident bytes, mapped files included. */
export function peakMemory(device: Device = "cpu"): number {
  if (device !== "cpu") return deviceMemory(device)?.peak ?? 0;
  if (!existsSync("/proc/self/status")) return process.resourceUsage().maxRSS * 1024;
  const [, kilobytes] = /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
  return Number(kilobytes) * 1024;
}
