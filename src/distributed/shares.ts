/** Divides work among workers: each gets a contiguous part, and the parts differ by at most one. */

/** Items from `start` on, `length` of them. */
export interface Share {
  readonly start: number;
  readonly length: number;
}

/** The part of `total` items that worker `rank` of `size` gets. The first workers get one more where it does not divide. */
export function shareOf(total: number, { rank, size }: { readonly rank: number; readonly size: number }): Share {
  const [each, more] = [Math.floor(total / size), total % size];
  return { start: rank * each + Math.min(rank, more), length: each + (rank < more ? 1 : 0) };
}
