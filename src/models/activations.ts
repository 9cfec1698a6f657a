/**
 * Activations of a tensor that is not used elsewhere: in place when no gradient needs the input, which saves memory
 * traffic.
 */
import { gelu, silu, silu_, type Tensor } from "../torch/index.js";

/** x sigmoid(x) */
export function siluOfFresh(x: Tensor): Tensor {
  return x.requiresGrad ? silu(x) : silu_(x);
}

/** GELU of the gate, times the hidden half. */
export function gated(hidden: Tensor, gate: Tensor): Tensor {
  const open = gelu(gate);
  return open.requiresGrad || hidden.requiresGrad ? open.mul(hidden) : open.mul_(hidden);
}
