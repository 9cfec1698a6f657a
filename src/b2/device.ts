/** Where a config computes, and in what: refused here where this libtorch or this machine cannot. */
import { conv2d, deviceCount, type Device, tidy, torchVersion, zeros } from "../torch/index.js";
import type { Config } from "./config.js";
import { InputError } from "./input-error.js";

/**
 * The device of a config.
 *
 * @throws InputError for a device that is not there, or that does not compute in the config's dtype
 */
export function openDevice({ model: { device: name, dtype } }: Pick<Config, "model">): Device {
  const device = name as Device; // the schema's pattern is this type
  const [kind, index = "0"] = name.split(":") as ["cpu" | "cuda" | "mps", string?];
  if (kind !== "cpu") {
    const count = deviceCount(kind);
    if (count === 0) {
      const way = kind === "cuda" ? "; install again with B2_LIBTORCH=cu126 for a CUDA build" : "";
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
  // Not every libtorch has every convolution: 1.13 has none in float16 on processors.
  try {
    tidy(() => void conv2d(zeros([1, 1, 3, 3], { dtype, device }), zeros([1, 1, 3, 3], { dtype, device })));
  } catch (cause) {
    throw new InputError(
      `Expected a model.dtype that libtorch ${torchVersion()} computes in on ${name} but received "${dtype}"; bfloat16 and float32 are the others`,
      { cause },
    );
  }
  return device;
}
