/** The log-probs that a stage's transitions were sampled with: recorded by the sampler, or recomputed. */
import { checkInterrupted } from "../../base/progress.js";
import { discardCheckpoints, tidy, yieldToEventLoop } from "../../torch/index.js";
import { ageOf, type TrainSet } from "../records.js";
import { logProbOf, type StageData } from "./batches.js";
import { rowsOf, type MicroBatch, type Row } from "./plan.js";

/** The log-probs of a micro-batch's rows under the policy that sampled, [B]. */
export type OldLogProbs = (pairs: MicroBatch) => Float32Array;

/** The log-probs that the sampler recorded. */
export function sampledLogProbs(trainSet: TrainSet): OldLogProbs {
  const recorded = recordedLogProbs(trainSet);
  return (pairs) => Float32Array.from(rowsOf(pairs), recorded);
}

function recordedLogProbs({
  logProbs,
  timesteps: { length: steps },
}: TrainSet): (row: Pick<Row, "row" | "step">) => number {
  const table = logProbs!.toTypedArray() as Float32Array;
  return ({ row, step }) => table[row * steps + step]!;
}

/**
 * The log-probs under the current policy, computed before the first optimiser step.
 *
 * In half precision a log-prob depends on its batch. Micro-batches of the first update, and later ones with an unseen
 * pair, are recomputed exactly as they will be trained; later epochs reuse each pair's first value. Rows that are replayed
 * were sampled by an earlier policy and keep what the sampler recorded.
 */
export async function recomputeLogProbs(
  data: Pick<StageData, "policy" | "trainSet" | "needs">,
  updates: readonly (readonly MicroBatch[])[],
  signal: AbortSignal | undefined,
): Promise<OldLogProbs> {
  const steps = data.trainSet.timesteps.length;
  const place = ({ row, step }: Row): number => row * steps + step;
  const recorded = recordedLogProbs(data.trainSet);
  const known = new Map<number, number>();
  const whole = new Map<MicroBatch, Float32Array>();
  const first = new Set(updates[0]);
  for (const pairs of updates.flat()) {
    const rows = rowsOf(pairs);
    if (!first.has(pairs) && rows.every((row) => known.has(place(row)))) continue;
    checkInterrupted(signal);
    // With gradients, as in the update: without them, some devices use other kernels, which round differently.
    const values = tidy(() => logProbOf(data, rows).detach().to({ device: "cpu" }).toTypedArray() as Float32Array);
    discardCheckpoints();
    rows.forEach(({ row, step }, i) => {
      if (ageOf(data.trainSet.keys[row]!, data.trainSet) > 0) values[i] = recorded({ row, step });
    });
    whole.set(pairs, values);
    rows.forEach((row, i) => {
      if (!known.has(place(row))) known.set(place(row), values[i]!);
    });
    await yieldToEventLoop();
  }
  return (pairs) => whole.get(pairs) ?? Float32Array.from(rowsOf(pairs), (row) => known.get(place(row))!);
}
