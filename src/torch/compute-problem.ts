/** Whether this libtorch and this machine compute on a device, in a dtype. */
import { zeros } from "./creation.js";
import type { Device, DType } from "./dtypes.js";
import { conv2d } from "./layers.js";
import { tidy } from "./memory.js";

/**
 * The error of a small convolution, which is the operator most often missing (libtorch 1.13 has none in float16 on CPUs);
 * undefined where it works. A GPU may also be present but unusable: out of memory, or not among those that libtorch was
 * compiled for. item() waits for the device.
 */
export function computeProblem(device: Device, dtype: DType): Error | undefined {
  try {
    tidy(() => void conv2d(zeros([1, 1, 3, 3], { dtype, device }), zeros([1, 1, 3, 3], { dtype, device })).item());
    return undefined;
  } catch (error) {
    return error as Error;
  }
}
