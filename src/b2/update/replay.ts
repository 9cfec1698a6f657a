/**
 * Replay (arXiv 2607.07693): what was learnt most from in earlier stages trains again. Of the last stages' trajectories,
 * those with the largest |A| join the present stage's, and learn through the ratio with the log-probs that they were
 * sampled with. Objectives on final latents diffuse theirs anew.
 */
import { cat, tensor, tidy, zeros, type Tensor } from "../../torch/index.js";
import type { Item, ObjectiveKind } from "../objectives/index.js";
import { edgeOf, type TrainSet } from "../records.js";
import { itemsOf } from "./plan.js";

/**
 * The present selection, and behind it the items of the past ones with the largest |A|, a mean over the samples of an
 * item; among equal ones those of the latest stage, then the first.
 *
 * @param past selections of earlier stages, in any order
 * @param share items to replay for each item of the present
 * @returns a record whose tensors the caller disposes of
 */
export function withReplay(
  present: TrainSet,
  past: readonly TrainSet[],
  objective: Pick<ObjectiveKind, "items">,
  share: number,
): TrainSet {
  const latestFirst = [...past].sort((a, b) => b.stage - a.stage);
  const candidates = latestFirst.flatMap((set) =>
    itemsOf(set, objective).map((item) => ({ set, item, size: meanSize(set, item) })),
  );
  const count = Math.round(share * itemsOf(present, objective).length);
  const chosen = candidates.sort((a, b) => b.size - a.size).slice(0, count);
  const parts = latestFirst.map((set) => ({
    set,
    rows: chosen.filter((candidate) => candidate.set === set).flatMap(({ item }) => item),
  }));
  return joined([
    { set: present, rows: present.keys.map((_, row) => row) },
    ...parts.filter(({ rows }) => rows.length > 0),
  ]);
}

const meanSize = ({ advantages }: TrainSet, item: Item): number =>
  item.reduce((sum, row) => sum + Math.abs(advantages[row]!), 0) / item.length;

/** Rows of several train sets as one of the first one's stage. Intervals end together: shorter ones begin later. */
function joined(parts: readonly { readonly set: TrainSet; readonly rows: readonly number[] }[]): TrainSet {
  const { stage } = parts[0]!.set;
  const timesteps = parts.reduce<readonly number[]>(
    (longest, { set }) => (set.timesteps.length > longest.length ? set.timesteps : longest),
    [],
  );
  const steps = timesteps.length;
  const keys = parts.flatMap(({ set, rows }) => {
    const later = steps - set.timesteps.length;
    return rows.map((row) => {
      const key = set.keys[row]!;
      const { from, to, parent } = edgeOf(key, set.timesteps.length);
      return { ...key, stage: set.stage, edge: { from: from + later, to: to + later, parent } };
    });
  });
  return tidy(() => {
    const all = (of: (set: TrainSet) => Tensor): Tensor =>
      cat(
        parts.map(({ set, rows }) => {
          const some = of(set).indexSelect(0, tensor(BigInt64Array.from(rows, BigInt)));
          return lengthened(some, set.logProbs === undefined ? 0 : steps - set.timesteps.length);
        }),
      );
    return {
      stage,
      keys,
      timesteps,
      latents: all(({ latents }) => latents),
      ...(parts[0]!.set.logProbs !== undefined && { logProbs: all(({ logProbs }) => logProbs!) }),
      advantages: parts.flatMap(({ set, rows }) => rows.map((row) => set.advantages[row]!)),
    };
  });
}

/** Zeros in front of the second dimension: steps that a shorter interval lacks, which nothing trains. */
function lengthened(x: Tensor, steps: number): Tensor {
  const [rows, , ...rest] = x.shape;
  return steps === 0 ? x : cat([zeros([rows!, steps, ...rest]), x], 1);
}
