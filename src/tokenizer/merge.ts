/**
 * The merges of a byte-pair encoding, in time that grows little faster than the text: a megabyte without a space is one
 * word. Pairs wait in a heap by rank and place; symbols are a linked list.
 */

/** Rank of a pair of neighbouring symbols; Infinity for a pair that is not merged. */
export type RankOf = (left: string, right: string) => number;

/**
 * Repeatedly merges all occurrences of the pair with the lowest rank, from the left, until no pair has a rank.
 *
 * @param letters the symbols to begin with
 */
export function mergePairs(letters: readonly string[], rankOf: RankOf): string[] {
  const symbols: (string | undefined)[] = [...letters];
  const next = symbols.map((_, i) => i + 1);
  const previous = symbols.map((_, i) => i - 1);
  const end = symbols.length;
  const waiting = new Heap();
  const rankAt = (i: number): number => (next[i]! < end ? rankOf(symbols[i]!, symbols[next[i]!]!) : Infinity);
  const wait = (i: number): void => {
    const rank = rankAt(i);
    // By rank, then by place; exact as long as it is below 2 ** 53.
    if (rank !== Infinity) waiting.push(rank * end + i);
  };
  for (let i = 0; i < end; i++) wait(i);

  while (waiting.size > 0) {
    const rank = Math.floor(waiting.least / end);
    const merged: number[] = [];
    while (waiting.size > 0 && Math.floor(waiting.least / end) === rank) {
      const i = waiting.pop() % end;
      // It may have become a part of the one before, or stand beside another symbol now.
      if (symbols[i] === undefined || rankAt(i) !== rank) continue;
      const right = next[i]!;
      symbols[i] += symbols[right]!;
      symbols[right] = undefined;
      next[i] = next[right]!;
      if (next[i] < end) previous[next[i]] = i;
      merged.push(i);
    }
    for (const i of merged) {
      if (previous[i]! >= 0) wait(previous[i]!);
      wait(i);
    }
  }
  return symbols.filter((symbol) => symbol !== undefined);
}

/** Numbers, of which the least is taken first: a binary heap. */
class Heap {
  readonly #values: number[] = [];

  get size(): number {
    return this.#values.length;
  }

  get least(): number {
    return this.#values[0]!;
  }

  push(value: number): void {
    const values = this.#values;
    let at = values.push(value) - 1;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (values[above]! <= value) break;
      values[at] = values[above]!;
      at = above;
    }
    values[at] = value;
  }

  pop(): number {
    const values = this.#values;
    const least = values[0]!;
    const last = values.pop()!;
    if (values.length === 0) return least;
    let at = 0;
    for (;;) {
      let below = 2 * at + 1;
      if (below >= values.length) break;
      if (below + 1 < values.length && values[below + 1]! < values[below]!) below++;
      if (values[below]! >= last) break;
      values[at] = values[below]!;
      at = below;
    }
    values[at] = last;
    return least;
  }
}
