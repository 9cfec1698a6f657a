import type { Tensor } from "../../torch/index.js";

/** The values of a tensor on any device as float32, detached from its graph. */
export const toFloats = (t: Tensor): Float32Array =>
  t.detach().to({ device: "cpu", dtype: "float32" }).toTypedArray() as Float32Array;
