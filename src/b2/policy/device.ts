/** The device and dtype that a config computes with, checked against this libtorch and this machine. */
import { InputError } from "../../base/errors.js";
import {
  computeDtype,
  conv2d,
  deviceCount,
  tidy,
  torchVersion,
  zeros,
  type Device,
  type DType,
} from "../../torch/index.js";
import type { Config } from "../config/schema.js";

/** The dtype of a config's forward passes. */
export function computeDtypeOf({ model: { dtype, computeDtype: chosen, device } }: Pick<Config, "model">): DType {
  return chosen ?? computeDtype(dtype, device as Device);
}

/**
 * The device of a config.
 *
 * @throws InputError for a device that is missing, or that cannot compute in the config's dtype
 */
export function openDevice(config: Pick<Config, "model">): Device {
  const { device: name } = config.model;
  const device = name as Device; // the schema's pattern is this type
  const [kind, index = "0"] = name.split(":") as ["cpu" | "cuda" | "mps", string?];
  if (kind !== "cpu") {
    const count = deviceCount(kind);
    if (count === 0) {
      const way = kind === "cuda" ? "; for a CUDA build run: npx b2 setup --libtorch cu126" : "";
      throw new InputError(
        `Expected a ${kind === "cuda" ? "CUDA" : "Metal"} device for model.device "${name}" but libtorch ${torchVersion()} sees none${way}`,
      );
    }
    if (Number(index) >= count) {
      throw new InputError(
        `Expected cuda:0${count > 1 ? ` to cuda:${count - 1}` : ""} for model.device but received "${name}"`,
      );
    }
  }
  checkComputes(device, computeDtypeOf(config));
  return device;
}

const dtypes = ["float32", "bfloat16", "float16"] as const;

/**
 * Tries a convolution, because not every libtorch has one in every dtype (1.13 has none in float16 on the CPU), nor
 * does every GPU. A GPU may also be present but unusable: out of memory, or not among those that libtorch was compiled
 * for.
 *
 * @throws InputError that says whether the dtype or the device is at fault
 */
export function checkComputes(device: Device, dtype: DType): void {
  const problem = problemWith(device, dtype);
  if (problem === undefined) return;
  const others = dtypes.filter((other) => other !== dtype && problemWith(device, other) === undefined);
  const [expected, received] =
    others.length > 0
      ? [`a model.computeDtype that libtorch ${torchVersion()} computes in on ${device} (${others.join(", ")})`, dtype]
      : [`a model.device that libtorch ${torchVersion()} computes on`, device];
  const reason = problem.message.split("\n", 1)[0]!;
  throw new InputError(`Expected ${expected} but received "${received}": ${reason}`, { cause: problem });
}

/**
 * The error of a small convolution, which is the operator most often missing; undefined where it works. item() waits for
 * the device.
 */
export function problemWith(device: Device, dtype: DType): Error | undefined {
  try {
    tidy(() => void conv2d(zeros([1, 1, 3, 3], { dtype, device }), zeros([1, 1, 3, 3], { dtype, device })).item());
    return undefined;
  } catch (error) {
    return error as Error;
  }
}
