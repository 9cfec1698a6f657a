/** Questions about a tensor's values. */
import { inference } from "./grad-mode.js";
import { aten, type Tensor } from "./tensor.js";

/** Whether no element is NaN or infinite: one pass in the common case, for a sum is finite only if its terms are. */
export function allFinite(tensor: Tensor): boolean {
  return inference(
    () => Number.isFinite(aten.sumAs(tensor, "float32").item()) || !tensor.sub(tensor).isnan().any().item(),
  );
}
