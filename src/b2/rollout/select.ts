/**
 * Selects the branches that train (section 4.2 of the paper): of each root the best, the worst, both or neither. In a
 * tree the same applies to the children of every node.
 */
import type { Edge } from "../records.js";
import type { Level } from "./tree.js";

/** How branches are selected; thresholds apply to advantages. */
export interface SelectionOptions {
  readonly mode: "best-worst" | "all";
  readonly branchCount: number;
  readonly positiveThreshold: number;
  readonly negativeThreshold: number;
}

/**
 * The samples that train, as indices into `advantages`.
 *
 * For each root, the best branch if its advantage is at least the positive threshold, and independently the worst if
 * its advantage is below the negative one; among equal branches the first. Mode "all" takes every sample.
 *
 * @param advantages ordered by root, then by branch
 */
export function selectSamples(
  advantages: readonly number[],
  { mode, branchCount, positiveThreshold, negativeThreshold }: SelectionOptions,
): number[] {
  if (mode === "all") return advantages.map((_, i) => i);
  const selected: number[] = [];
  for (let root = 0; root < advantages.length; root += branchCount) {
    let best = root;
    let worst = root;
    for (let i = root; i < Math.min(root + branchCount, advantages.length); i++) {
      if (advantages[i]! > advantages[best]!) best = i;
      if (advantages[i]! < advantages[worst]!) worst = i;
    }
    if (advantages[best]! >= positiveThreshold) selected.push(best);
    if (advantages[worst]! < negativeThreshold) selected.push(worst);
  }
  return selected;
}

/** What a row of the train set will be. */
export interface SelectedRow {
  /** Index of the image whose trajectory it is. */
  readonly sample: number;
  readonly advantage: number;
  /** In a tree: the part that trains. */
  readonly edge?: Edge;
}

/**
 * The rows that train, level by level. `steps` is how many of the interval's steps train. `ofImages` says whether an edge
 * trains once for each image below it, as final latents do, or once for all, since its transitions are the same in all.
 *
 * @param advantages of each level's nodes, ordered by root, parent and branch
 */
export function selectRows(
  advantages: readonly (readonly number[])[],
  levels: readonly Level[],
  { steps, ofImages, ...selection }: Omit<SelectionOptions, "branchCount"> & { steps: number; ofImages: boolean },
): SelectedRow[] {
  return levels.flatMap(({ from, to, count, images }, depth) => {
    const values = advantages[depth]!;
    const rows = ofImages ? images : 1;
    return selectSamples(values, { ...selection, branchCount: count }).flatMap((node) =>
      Array.from({ length: rows }, (_, image) => ({
        sample: node * images + image,
        advantage: values[node]!,
        ...(levels.length > 1 && { edge: { from, to: Math.min(to, steps), parent: Math.floor(node / count) } }),
      })),
    );
  });
}
