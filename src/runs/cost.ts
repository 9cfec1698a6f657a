/** What training costs: the three measures by which methods are compared, counted where the work is done. */

/** The cost of a piece of training. Evaluations and contact sheets are no part of it. */
export interface Cost {
  /** Images that the reward scored. */
  readonly queries: number;
  /**
   * Passes of one image through the denoiser, in sampling and training. Guidance passes an image twice. What gradient
   * checkpointing computes again is not counted.
   */
  readonly forwardPasses: number;
  /** Passes of one image back through it. */
  readonly backwardPasses: number;
  /** Wall time. */
  readonly seconds: number;
  /** Time of this process on all processors, its threads summed. */
  readonly processorSeconds: number;
}

export const NO_COST: Cost = { queries: 0, forwardPasses: 0, backwardPasses: 0, seconds: 0, processorSeconds: 0 };

const combined = (a: Cost, b: Cost, of: (a: number, b: number) => number): Cost => ({
  queries: of(a.queries, b.queries),
  forwardPasses: of(a.forwardPasses, b.forwardPasses),
  backwardPasses: of(a.backwardPasses, b.backwardPasses),
  seconds: of(a.seconds, b.seconds),
  processorSeconds: of(a.processorSeconds, b.processorSeconds),
});

/** The sum of two costs. */
export const addCost = (a: Cost, b: Cost): Cost => combined(a, b, (x, y) => x + y);

/** What was spent between two readings of the same counters. */
export const costBetween = (start: Cost, end: Cost): Cost => combined(end, start, (x, y) => x - y);

/** Passes in units of a forward pass. A backward pass computes two products where a forward pass computes one. */
export const passesOf = ({ forwardPasses, backwardPasses }: Pick<Cost, "forwardPasses" | "backwardPasses">): number =>
  forwardPasses + 2 * backwardPasses;
