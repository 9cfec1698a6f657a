/** What a stage takes, added up over its phases and attempts. */
import { addCost, NO_COST, type Cost, type PartialStage } from "../runs/index.js";

/** Of a stage that has not begun. */
export const NOTHING_YET: PartialStage = { sample: 0, score: 0, train: 0, rewards: {}, costs: {} };

/** The sum of costs, of which some may be unknown or none. */
export const sumOfCosts = (...costs: readonly (Cost | undefined)[]): Cost =>
  costs.reduce<Cost>((sum, cost) => addCost(sum, cost ?? NO_COST), NO_COST);

/** The result of `work`, and its wall time in seconds. */
export async function timed<T>(work: () => Promise<T>): Promise<[result: T, seconds: number]> {
  const start = performance.now();
  const result = await work();
  return [result, (performance.now() - start) / 1000];
}
