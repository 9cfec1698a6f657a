/** What the CPU says it can do. */
import { readFileSync } from "node:fs";

export interface Cpu {
  /** As "GenuineIntel"; undefined where nothing is known. */
  readonly vendor: string | undefined;
  /** Linux' names of its instruction sets, as "avx2"; none where nothing is known. */
  readonly flags: ReadonlySet<string>;
}

/** Reads the text of Linux' /proc/cpuinfo. */
export function parseCpuInfo(text: string): Cpu {
  const field = (name: RegExp): string | undefined => name.exec(text)?.[1]?.trim();
  return {
    vendor: field(/^vendor_id\s*:(.*)$/m),
    flags: new Set(field(/^flags\s*:(.*)$/m)?.split(" ")),
  };
}

/** This machine's CPU. */
export function thisCpu(): Cpu {
  try {
    return parseCpuInfo(readFileSync("/proc/cpuinfo", "utf8"));
  } catch {
    return { vendor: undefined, flags: new Set() };
  }
}
