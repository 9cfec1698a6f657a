/** The most memory that work on a device took. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { deviceMemory, resetPeakDeviceMemory, type Device } from "../torch/index.js";

/** Sets the high-water mark of a device's memory to what is in use; of main memory, where the system can (Linux). */
export function resetPeakMemory(device: Device = "cpu"): void {
  if (device !== "cpu") resetPeakDeviceMemory(device);
  else {
    try {
      writeFileSync("/proc/self/clear_refs", "5");
    } catch {
      // Not on this system, or not allowed: the peak is then that since the start.
    }
  }
}

/** Peak since the start or the last reset: of an accelerator's tensors, or of resident bytes, mapped files included. */
export function peakMemory(device: Device = "cpu"): number {
  if (device !== "cpu") return deviceMemory(device)?.peak ?? 0;
  if (!existsSync("/proc/self/status")) return process.resourceUsage().maxRSS * 1024;
  const [, kilobytes] = /VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))!;
  return Number(kilobytes) * 1024;
}
