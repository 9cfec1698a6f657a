/**
 * The shape of what grows from a root: branches that part at the start of the interval, and, with `branch.splits`,
 * divide again on the way, so that a root is a tree (BranchGRPO, Li et al. 2025, arXiv 2509.06040).
 *
 * Each level of edges is branched sampling of its own: an edge ends in a node, a node is worth the mean reward of the
 * images below it, nodes are compared with those of their level, and an edge trains once, with the advantage of the
 * node it leads to. With one split the edges are the branches.
 */
import type { Config } from "../config/schema.js";

/** The edges from one split to the next, or to the images. */
export interface Level {
  /** Their first step, counted from the start of the interval. */
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  /** How many leave each node; adjacent in all lists. */
  readonly count: number;
  /** How many a root has. */
  readonly edges: number;
  /** Images below each, adjacent in all lists. */
  readonly images: number;
}

/** The levels of a root whose interval has `interval` steps, from the start of the interval to the images. */
export function levelsOf(branch: Config["branch"], interval: number): Level[] {
  const total = imagesOf(branch);
  const splits = [{ at: interval, count: branch.count }, ...branch.splits];
  let edges = 1;
  return splits.map(({ at, count }, i) => {
    edges *= count;
    return { from: interval - at, to: interval - (splits[i + 1]?.at ?? 0), count, edges, images: total / edges };
  });
}

/** Images of a root. */
export const imagesOf = ({ count, splits }: Config["branch"]): number =>
  splits.reduce((product, split) => product * split.count, count);
