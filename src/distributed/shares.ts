/** Divides work among workers: each gets a contiguous part, and the parts differ by at most one. */

/** Items from `start` on, `length` of them. */
export interface Share {
  readonly start: number;
  readonly length: number;
}

/**
 * The rows that a worker computes of `total` rows in batches of `batchSize`: whole batches, so that each row is computed
 * among the same others, and to the same bits, by any number of workers.
 */
export function batchShareOf(total: number, batchSize: number, worker: { rank: number; size: number }): Share {
  const { start, length } = shareOf(Math.ceil(total / batchSize), worker);
  const first = Math.min(start * batchSize, total);
  return { start: first, length: Math.min((start + length) * batchSize, total) - first };
}

/** The part of `total` items that worker `rank` of `size` gets. The first workers get one more where it does not divide. */
export function shareOf(total: number, { rank, size }: { readonly rank: number; readonly size: number }): Share {
  const [each, more] = [Math.floor(total / size), total % size];
  return { start: rank * each + Math.min(rank, more), length: each + (rank < more ? 1 : 0) };
}
