import type { Tensor } from "../../torch/index.js";

/** The numbers of a tensor on any device, without its gradient. */
export const toFloats = (t: Tensor): Float32Array =>
  t.detach().to({ device: "cpu", dtype: "float32" }).toTypedArray() as Float32Array;
