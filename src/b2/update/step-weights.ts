/**
 * Selective timestep weighting ("change", arXiv 2607.07693): a step counts in proportion to how far it moves the
 * latents, |x_t - x_{t-1}|^2, with mean 1 over the trained steps of its sample.
 *
 * A positive factor commutes with the clipped surrogate of PPO, so it multiplies the advantage.
 */
import { tidy } from "../../torch/index.js";
import { edgeOf, type TrainSet } from "../records.js";
import type { Row } from "./plan.js";

/** The weight of a row's step. */
export type StepWeight = (row: Pick<Row, "row" | "step">) => number;

/** The weights of all steps of a train set with transitions. */
export function changeWeights({
  keys,
  latents,
  timesteps: { length: steps },
}: Pick<TrainSet, "keys" | "latents" | "timesteps">): StepWeight {
  const changes = tidy(
    () =>
      latents
        .narrow(1, 1, steps)
        .sub(latents.narrow(1, 0, steps))
        .square()
        .flatten(2)
        .mean({ dim: 2 })
        .toTypedArray() as Float32Array, // [m, s]
  );
  const means = keys.map((key, row) => {
    const { from, to } = edgeOf(key, steps);
    return changes.subarray(row * steps + from, row * steps + to).reduce((sum, value) => sum + value, 0) / (to - from);
  });
  // Latents that never move have no step to prefer.
  return ({ row, step }) => (means[row]! > 0 ? changes[row * steps + step]! / means[row]! : 1);
}
