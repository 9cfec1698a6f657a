/** Measures the machine: matmul peak and clocks. */
import { inference, matmul, randn, synchronize, tidy, type Device, type DType } from "../src/torch/index.js";

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
