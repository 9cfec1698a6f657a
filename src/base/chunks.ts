/** Splits `total` items into pieces of at most `size`, as [start, length]. */
export function* chunks(total: number, size: number): Generator<[start: number, length: number]> {
  for (let start = 0; start < total; start += size) yield [start, Math.min(size, total - start)];
}
