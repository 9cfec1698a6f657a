/** Selects the branches that train (section 4.2 of the paper): of each root the best, the worst, both or neither. */

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
