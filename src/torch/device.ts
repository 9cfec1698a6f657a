/** Accelerators: how many there are, waiting for one, and its memory. */
import type { Device } from "./dtypes.js";
import { native } from "./native.js";

/** How many CUDA or MPS devices there are; 0 where this libtorch was built without. */
export function deviceCount(kind: "cuda" | "mps"): number {
  return native.deviceCount(kind);
}

/**
 * Waits until a device has done everything that was queued on it. Operators on an accelerator return before their result
 * is there, so a clock is read after this. Reading a tensor waits by itself; on the CPU there is nothing to wait for.
 *
 * @throws TorchError for a device that is not there
 */
export function synchronize(device: Device): void {
  native.synchronize(device);
}

/** Bytes of an accelerator's memory, as libtorch's allocator counts them. */
export interface DeviceMemory {
  /** In tensors right now, including those that only autograd holds. */
  readonly allocated: number;
  /** The most that was allocated since the last `resetPeakDeviceMemory`, or the start. */
  readonly peak: number;
}

/**
 * The memory of an accelerator; undefined for the CPU (see `nativeBytes`), where libtorch does not count (before 2.9), and
 * before the device's first tensor.
 *
 * @throws TorchError for a device that is not there
 */
export function deviceMemory(device: Device): DeviceMemory | undefined {
  const bytes = native.deviceBytes(device);
  return bytes && { allocated: bytes[0], peak: bytes[1] };
}

/** Makes the peak of `deviceMemory` what is allocated right now. @throws TorchError for a device that is not there */
export function resetPeakDeviceMemory(device: Device): void {
  native.resetPeakDeviceBytes(device);
}
