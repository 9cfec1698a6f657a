/** The device and dtype that a config computes with, checked against this libtorch and this machine. */
import { InputError } from "../../base/errors.js";
import { computeDtype, computeProblem, deviceCount, torchVersion, type Device, type DType } from "../../torch/index.js";
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
 * Tries a small convolution, see computeProblem.
 *
 * @throws InputError that says whether the dtype or the device is at fault
 */
export function checkComputes(device: Device, dtype: DType): void {
  const problem = computeProblem(device, dtype);
  if (problem === undefined) return;
  const others = dtypes.filter((other) => other !== dtype && computeProblem(device, other) === undefined);
  const [expected, received] =
    others.length > 0
      ? [`a model.computeDtype that libtorch ${torchVersion()} computes in on ${device} (${others.join(", ")})`, dtype]
      : [`a model.device that libtorch ${torchVersion()} computes on`, device];
  const reason = problem.message.split("\n", 1)[0]!;
  throw new InputError(`Expected ${expected} but received "${received}": ${reason}`, { cause: problem });
}
