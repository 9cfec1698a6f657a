/**
 * From shares to a schedule of backward progressive training: which interval to begin with, and which to end with.
 *
 * The first interval is the shortest one whose share is at least 0.25 at the lower end of its interval. A share of 0.25
 * is half of a prompt's standard deviation; the best of five branches is then expected 1.16 x 0.5 = 0.58 deviations
 * above its root, just beyond `select.positiveThreshold` (0.5). Below it hardly any root has branches worth selecting.
 *
 * The last interval is the shortest one whose share is at least 0.95: longer ones cost more and decide the same.
 */
import { thinOut } from "../rollout/prompts.js";
import type { ShareEstimate } from "./shares.js";

/** Lower end of the share that the first interval has to decide. */
export const FIRST_SHARE = 0.25;
/** Share that the last interval has to decide. */
export const LAST_SHARE = 0.95;

/** Lengths of the trained interval, in steps. */
export interface IntervalProposal {
  readonly first: number;
  readonly last: number;
}

/**
 * Proposes a schedule among the splits that were measured. A reward that does not vary decides nothing: then both are
 * the whole trajectory.
 *
 * @param shares ascending, the last of the whole trajectory
 */
export function proposeInterval(shares: readonly ShareEstimate[]): IntervalProposal {
  const whole = shares.at(-1)!.steps;
  const first = shares.find(({ low }) => low !== null && low >= FIRST_SHARE)?.steps ?? whole;
  const last = shares.find(({ steps, share }) => steps >= first && share !== null && share >= LAST_SHARE)?.steps;
  return { first, last: last ?? whole };
}

/** Splits to probe unless others are asked for: about `count` of them, evenly spaced, ending with T. */
export function evenSplits(steps: number, count = 10): number[] {
  return [...new Set(Array.from({ length: count }, (_, i) => Math.max(1, Math.round(((i + 1) * steps) / count))))];
}

/** The prompts of a probe's roots: spread evenly over a long list; a short one in turn. */
export const promptsOfRoots = (list: readonly string[], roots: number): string[] =>
  roots <= list.length ? thinOut(list, roots) : Array.from({ length: roots }, (_, root) => list[root % list.length]!);
